"""Recognize a list that was given in place of a manifest, and name the command that converts it.

Imported only when a manifest is wrong.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from bulkdl.formats import checksum_list, csv_table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENOUGH", "advice", "recognize"]

ENOUGH = 64 * 1024
"""Bytes at the beginning of a list that are enough to recognize it."""
_NAMES = {
    "csv": "a CSV table",
    "aria2": "an input file of aria2",
    "metalink": "a Metalink document",
    "stac": "a STAC result",
    "odata": "an OData result",
    "sha256sums": "a checksum list",
}
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_OPTION = re.compile(r"[ \t]+[a-z][a-z0-9-]*=")
_ODATA = re.compile(r'"@?odata\.|"value"\s*:\s*\[\s*\{[^{}]*"Id"')
_STAC = re.compile(r'"stac_version"|"type"\s*:\s*"Feature(?:Collection)?"|"assets"\s*:\s*\{')


def advice(path: str, start: bytes) -> str | None:
    """Return what the file at `path` seems to be, and the command that converts it; None if that cannot be told."""
    text = _decoded(start).lstrip("\ufeff")
    form = recognize(text)
    if form is None:
        page = re.match(r"\s*<(!doctype\s+html|html)\b", text, re.IGNORECASE)
        return "this is an HTML page, no list; open its URL in a browser to see what it says" if page else None
    more = " --base-url URL" if form == "sha256sums" else ""
    command = f"bulkdl manifest {form} {shlex.quote(path)}{more} -o manifest.yaml"
    return f"this looks like {_NAMES[form]}, no manifest; make one with: {command}"


def recognize(text: str) -> str | None:
    """Return the format of a list by the beginning of its text; None for a manifest and for what no converter reads."""
    stripped = text.lstrip()
    if stripped.startswith(("{", "[")):
        return "odata" if _ODATA.search(text) else "stac" if _STAC.search(text) else None
    if stripped.startswith("<"):
        return "metalink" if re.search(r"<(?:\w+:)?metalink\b", text) else None
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip() and not line.startswith("#")][:2000]
    tests: dict[str, Callable[[list[str]], bool]] = {"aria2": _is_aria2, "sha256sums": _is_checksums, "csv": _is_table}
    return next((form for form, fits in tests.items() if lines and fits(lines)), None)


def _is_aria2(lines: list[str]) -> bool:
    if not _URL.match(lines[0]):
        return False
    return any(_OPTION.match(line) or len(re.findall(r"(?:^|\t)[a-z]+://", line)) > 1 for line in lines)


def _is_checksums(lines: list[str]) -> bool:
    return checksum_list.is_entry(lines[0])


def _is_table(lines: list[str]) -> bool:
    first = lines[1] if csv_table.names_delimiter(lines[0]) and len(lines) > 1 else lines[0]
    return csv_table.is_header(first)


def _decoded(start: bytes) -> str:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return start.decode("utf-16", "replace")
    return start.decode("utf-16-le" if len(start) > 1 and start[1] == 0 else "utf-8", "replace")
