"""`bulkdl manifest`: convert a list in another format to a manifest."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkdl.cli.output import say, write_out
from bulkdl.cli.output_file import write_file
from bulkdl.cli.text import clean, count
from bulkdl.core.errors import ManifestError, Problem, UsageError
from bulkdl.core.urls import Url
from bulkdl.formats import convert
from bulkdl.manifest.problems import FatalProblem
from bulkdl.manifest.text_source import Source

if TYPE_CHECKING:
    from bulkdl.cli.dispatch import Invocation
    from bulkdl.formats.collector import Collected

__all__ = ["manifest"]

_MOST_SHOWN = 100
_NOT_WRITTEN = "no manifest was written"
_HEAD = """\
# yaml-language-server: $schema=bulkdl.schema.json
version: 1
destination: ./products

"""


def manifest(invocation: Invocation) -> int:
    """Write a manifest of all usable entries of the list; return 1 if it is not the whole list.

    Each entry that is left out is named. Without any usable entry, or where the text is another kind of list, raise
    `ManifestError` and write nothing.
    """
    arguments = invocation.arguments
    source, output = arguments.source, arguments.output
    _require_new(output, force=arguments.force)
    most = _most(arguments.max)
    found = convert(arguments.format, _read(source), base_url=_base(arguments.base_url))
    if not found.products or found.is_wrong:
        problems = found.problems or [Problem(0, 0, "the list has no products")]
        raise ManifestError(source, tuple(problems), ended=_NOT_WRITTEN)
    if most is not None and len(found.products) >= most:
        found.products, found.incomplete = found.products[:most], ""
    text = _HEAD + _yaml(found, ascii_only=output == "-" and not _stdout_is_utf8())
    _require_valid(text, invocation)
    if output == "-":
        write_out(text)
    else:
        _require_new(output, force=arguments.force)
        write_file(Path(output), text)
    return _report(found, invocation)


def _report(found: Collected, invocation: Invocation) -> int:
    """Say what is not in the manifest, and what to do next; return the exit code."""
    arguments = invocation.arguments
    if invocation.verbosity >= 0:
        for warning in found.warnings:
            say(f"warning: {clean(warning)}")
    lines = ManifestError(arguments.source, tuple(found.problems)).lines()
    for line in lines[:_MOST_SHOWN]:
        say(clean(line))
    if lines:
        are = "is" if len(lines) == 1 else "are"
        say(f"warning: {count(len(lines), 'entry', 'entries')} of {arguments.source} {are} not in the manifest")
    if found.incomplete:
        say(f"warning: the manifest is incomplete: {clean(found.incomplete)}")
    if arguments.output != "-" and invocation.verbosity >= 0:
        name = shlex.quote(arguments.output)
        say(f"{count(len(found.products), 'product')} in {arguments.output}; next: bulkdl check {name}")
    return 1 if lines or found.incomplete else 0


def _require_new(output: str, *, force: bool) -> None:
    """Raise `UsageError` if a file would be overwritten: the user may have written accounts into it."""
    if output != "-" and not force and Path(output).is_file():
        raise UsageError(f"{output} already exists", hint="Choose another name for -o, or replace it with --force")


def _most(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise UsageError("--max: expected a whole number from 1")
    return int(text)


def _read(source: str) -> str:
    if source.startswith(("http://", "https://")):
        raise UsageError(
            "SOURCE must be a local file or -",
            hint=f"Download the list first, for instance: curl -fsS '{Url(source)}' | bulkdl manifest FORMAT -",
        )
    try:
        if source == "-":
            return _text(sys.stdin.buffer)
        with Path(source).open("rb") as file:
            return _text(file)
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error
    except FatalProblem as fatal:
        raise ManifestError(source, (fatal.problem,), ended=_NOT_WRITTEN) from None


def _text(stream: Any) -> str:
    """Return the whole text, in any encoding that a manifest may have, too."""
    return "".join(iter(Source(stream, allow_controls=True).read, ""))


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


def _yaml(found: Collected, *, ascii_only: bool) -> str:
    import yaml  # noqa: PLC0415 - only this command writes YAML

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    entries = [product.entry() for product in found.products]
    document = {"products": entries}
    return str(yaml.dump(document, Dumper=dumper, allow_unicode=not ascii_only, sort_keys=False, width=10_000))


def _stdout_is_utf8() -> bool:
    """Return whether standard output can take any name: a pipe on Windows has the ANSI code page.

    Characters that it lacks would become escapes that are no YAML, and so other names.
    """
    return sys.stdout is not None and (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


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
            raise ManifestError(f"the generated {name}", problems, ended=_NOT_WRITTEN) from None
