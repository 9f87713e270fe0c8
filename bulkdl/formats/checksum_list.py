"""Checksum lists such as `SHA256SUMS`, as coreutils, BSD, OpenSSL and others write them: a digest and a name a line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from bulkdl.formats.lines import numbered

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["is_entry", "read"]

_GNU = re.compile(r"(\\?)([0-9A-Fa-f]{32,128})(?:[ \t]+\*?|\*)(\S.*)")
"""`digest  name`, `digest *name` (binary), and one blank or a tab between them. A backslash: the name is escaped."""
_BSD = re.compile(r"(\\?)([A-Za-z0-9][A-Za-z0-9/-]*)[ \t]*\((.+)\)[ \t]*=[ \t]*([0-9A-Fa-f]+)")
"""`SHA256 (name) = digest` (BSD, `--tag`) and `SHA256(name)= digest` (OpenSSL)."""
_BY_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_ESCAPES = {"n": "\n", "r": "\r"}


def read(text: str, into: Collected) -> None:
    """Add the product of every line; names are relative to the base URL."""
    if into.base_url is None:
        into.add_problem("a checksum list has file names but no URLs; give the URL of their folder with --base-url")
        return
    for number, line in numbered(text):
        if line.strip() and not line.lstrip().startswith(("#", ";")):
            _add(line.strip(), number, into)


def is_entry(line: str) -> bool:
    """Return whether a line is one of a checksum list."""
    return (_GNU.fullmatch(line.strip()) or _BSD.fullmatch(line.strip())) is not None


def _add(line: str, number: int, into: Collected) -> None:
    if gnu := _GNU.fullmatch(line):
        escaped, digest, name = gnu.groups()
        algorithm = _BY_LENGTH.get(len(digest))
    elif bsd := _BSD.fullmatch(line):
        escaped, algorithm, name, digest = bsd.groups()
        algorithm = algorithm.upper().removeprefix("SHA2-")
        algorithm = f"sha{algorithm}" if algorithm.isdigit() else algorithm.lower()
    else:
        into.add_problem("expected a digest, two spaces and a file name, as `sha256sum` writes them", number)
        return
    if algorithm is None:
        into.add_problem(
            f"a digest of {len(digest)} digits; expected 32 (MD5), 40 (SHA-1), 64 (SHA-256) or 128 (SHA-512)", number
        )
        return
    if escaped:
        name = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), name)
    name = name.removeprefix("./")
    into.add([quote(name)], line=number, file=name, checksums=[f"{algorithm}:{digest}"])
