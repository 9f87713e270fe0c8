"""Checksum lists such as `SHA256SUMS`, as coreutils and BSD write them: one digest and name per line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_GNU = re.compile(r"(\\?)([0-9A-Fa-f]{32,128}) [ *](.+)")
_BSD = re.compile(r"([A-Za-z0-9-]+) \((.+)\) = ([0-9A-Fa-f]+)")
_BY_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


def read(text: str, into: Collected) -> None:
    """Add the product of every line; names are relative to the base URL."""
    if into.base_url is None:
        into.add_problem("a checksum list has file names but no URLs; give the URL of their folder with --base-url")
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            _add(line, number, into)


def _add(line: str, number: int, into: Collected) -> None:
    if gnu := _GNU.fullmatch(line):
        escaped, digest, name = gnu.groups()
        algorithm = _BY_LENGTH.get(len(digest))
        if escaped:
            name = name.replace("\\n", "\n").replace("\\\\", "\\")
    elif bsd := _BSD.fullmatch(line):
        algorithm, name, digest = bsd.groups()
    else:
        into.add_problem("expected a digest, two spaces and a file name, as `sha256sum` writes them", number)
        return
    if algorithm is None:
        into.add_problem(
            f"a digest of {len(digest)} digits; expected 32 (MD5), 40 (SHA-1), 64 (SHA-256) or 128 (SHA-512)", number
        )
        return
    name = name.removeprefix("./")
    into.add([name], line=number, file=name, checksums=[f"{algorithm}:{digest}"])
