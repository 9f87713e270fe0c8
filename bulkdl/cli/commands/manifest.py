"""`bulkdl manifest`: convert a list in another format to a manifest."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkdl.cli.output import say, write_out
from bulkdl.cli.output_file import write_file
from bulkdl.cli.text import clean, count
from bulkdl.core.errors import ManifestError, UsageError
from bulkdl.core.urls import Url
from bulkdl.formats import convert

if TYPE_CHECKING:
    from bulkdl.cli.dispatch import Invocation
    from bulkdl.formats.collector import Collected

__all__ = ["manifest"]

_MAX_BYTES = 256 * 1024 * 1024
_HEAD = """\
# yaml-language-server: $schema=bulkdl.schema.json
version: 1
destination: ./products

"""


def manifest(invocation: Invocation) -> int:
    """Write the whole manifest or none of it; report all problems of the list together."""
    arguments = invocation.arguments
    source: str = arguments.source
    found = convert(arguments.format, _read(source), base_url=_base(arguments.base_url))
    if found.problems:
        raise ManifestError(source, tuple(found.problems))
    text = _HEAD + _yaml(found)
    _require_valid(text, invocation)
    if arguments.output == "-":
        write_out(text)
    else:
        write_file(Path(arguments.output), text)
    if invocation.verbosity >= 0:
        for warning in found.warnings:
            say(f"warning: {clean(warning)}")
        if arguments.output != "-":
            say(f"{count(len(found.products), 'product')} in {arguments.output}; next: bulkdl check {arguments.output}")
    return 0


def _read(source: str) -> str:
    if source.startswith(("http://", "https://")):
        raise UsageError(
            "SOURCE must be a local file or -",
            hint=f"Download the list first, for instance: curl -fsS '{Url(source)}' | bulkdl manifest FORMAT -",
        )
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{source} is larger than 256 MiB", hint="Split it into several files.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{source}:{line}: not UTF-8 text", hint="Save the file as UTF-8.") from None


def _base(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        url = Url(text)
    except ValueError as error:
        raise UsageError(f"--base-url: expected an http:// or https:// URL ({error})") from None
    if url.has_userinfo:
        raise UsageError(
            "--base-url: a user name or password in a URL is a literal secret; use an account in the manifest instead"
        )
    return url.raw if url.raw.endswith("/") else f"{url.raw}/"


def _yaml(found: Collected) -> str:
    import yaml  # noqa: PLC0415 - only this command writes YAML

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    entries = [product.entry() for product in found.products]
    return str(yaml.dump({"products": entries}, Dumper=dumper, allow_unicode=True, sort_keys=False, width=10_000))


def _require_valid(text: str, invocation: Invocation) -> None:
    """Load the generated manifest, because problems such as two products for one file show only there.

    The positions in the error are those in the generated manifest.
    """
    from bulkdl.manifest.loader import load  # noqa: PLC0415 - reading YAML is slow to import

    output: str = invocation.arguments.output
    try:
        load("-", stdin=io.BytesIO(text.encode()), destination=None, environ=invocation.environ)
    except ManifestError as error:
        name = "manifest" if output == "-" else output
        # The user still has to add the accounts that the list names, so an unknown account is no problem here.
        problems = tuple(p for p in error.problems if not p.message.startswith("unknown account"))
        if problems:
            raise ManifestError(f"the generated {name}", problems) from None
