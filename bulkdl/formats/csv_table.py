"""CSV table with a header row (RFC 4180; commas, semicolons or tabs): a column `url`, others by their usual names."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_NAMES = {
    "url": ("url", "href", "link", "downloadurl", "uri"),
    "file": ("file", "filename", "name", "path", "out"),
    "size": ("size", "bytes", "length", "contentlength", "filesize"),
    "checksum": ("checksum", "hash", "digest"),
    "account": ("account",),
    "mirrors": ("mirrors", "mirror"),
}
_ALGORITHMS = ("md5", "sha1", "sha256", "sha512", "blake3")


def read(text: str, into: Collected) -> None:
    """Add the product of every row below the header; ignore unknown columns."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    columns: Mapping[str, int] | None = None
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns = _columns(row)
                if "url" not in columns:
                    into.add_problem("expected a header line with the column names, including `url`", rows.line_num)
                    return
                continue
            _add(row, columns, rows.line_num, into)
    except csv.Error as error:
        into.add_problem(f"this is not CSV: {error}", rows.line_num)
        return
    if columns is None:
        into.add_problem("expected a table with the column `url`, found an empty file", 1)


def _columns(header: list[str]) -> dict[str, int]:
    """Return key -> column index; of several matching columns the first."""
    found: dict[str, int] = {}
    for index, cell in enumerate(header):
        plain = "".join(c for c in cell.lower() if c.isalnum())
        ours = next(
            (name for name, theirs in _NAMES.items() if plain in theirs), plain if plain in _ALGORITHMS else None
        )
        if ours is not None:
            found.setdefault(ours, index)
    return found


def _add(row: list[str], columns: Mapping[str, int], line: int, into: Collected) -> None:
    cells = {name: row[index].strip() if index < len(row) else "" for name, index in columns.items()}
    checksums = [f"{name}:{cells[name]}" for name in _ALGORITHMS if cells.get(name)]
    checksums += cells.get("checksum", "").split()
    into.add(
        [cells["url"], *cells.get("mirrors", "").split()],
        line=line,
        file=cells.get("file"),
        size=cells.get("size"),
        checksums=checksums,
        account=cells.get("account"),
    )
