"""CSV table with a header row (RFC 4180; commas, semicolons, tabs or bars): a column `url`, others by their usual names.

A column that is not used is named in a warning, since its values may be what the user meant as names or sizes.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

from bulkdl.core import units
from bulkdl.core.urls import Url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.formats.collector import Collected

__all__ = ["is_header", "names_delimiter", "read"]

_NAMES = {
    "url": (
        "url", "downloadurl", "downloadlink", "downloaduri", "downloadhref", "fileurl", "dataurl", "producturl", "accessurl",
        "asseturl", "assethref", "httpsurl", "httpurl", "weburl", "href", "link", "uri", "urls", "links", "download",
    ),
    "file": (
        "file", "filename", "name", "path", "out", "outfile", "outputfile", "productname", "granulename", "localpath",
        "localname", "savename", "targetname", "basename", "filepath",
    ),
    "size": (
        "size", "bytes", "length", "contentlength", "filesize", "sizebytes", "sizeinbytes", "sizeb", "filesizebytes",
        "filesizeb", "bytesize", "productsize",
    ),
    "checksum": ("checksum", "hash", "digest", "checksums", "filechecksum"),
    "account": ("account",),
    "mirrors": ("mirrors", "mirror", "mirrorurl", "mirrorurls", "alternate", "alternateurl"),
}  # fmt: skip
_ALGORITHMS = ("md5", "sha1", "sha256", "sha512", "blake3")
_DELIMITERS = ",;\t|"
_LONGEST_HEADER = 65_536
_EXCEL = re.compile(r"sep=([,;\t|])\r?\n", re.IGNORECASE)
"""A first line that names the delimiter to spreadsheets."""
_SIZE = re.compile(r"(\d+)(?:\.0*)?(?:\s*(?:B|bytes))?|\d{1,3}(?:[ ,.'\u00a0\u202f]\d{3})+", re.IGNORECASE)
_ROUNDED = re.compile(r"[\d., ]+\s*[KMGT]i?B?", re.IGNORECASE)


def read(text: str, into: Collected) -> None:
    """Add the product of every row below the header."""
    lines = 0
    if (excel := _EXCEL.match(text)) is not None:
        text, lines = text[excel.end() :], 1
    delimiter = excel[1] if excel is not None else _delimiter(text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    table: _Table | None = None
    for line, row in _rows(rows, into):
        if table is None:
            table = _Table(row, delimiter, into)
            if "url" not in table.columns:
                into.add_problem("expected a header line with the column names, including `url`", line + lines)
                return
        else:
            table.add(row, line + lines)
    if table is None and not into.problems:
        into.add_problem("expected a table with the column `url`, found an empty file", 1)


def names_delimiter(line: str) -> bool:
    """Return whether a line only names the delimiter, as spreadsheets write it."""
    return _EXCEL.fullmatch(f"{line}\n") is not None


def is_header(line: str) -> bool:
    """Return whether a line has column names, with one for the URL."""
    return any(_rank(cell)[0] == "url" for cell in _cells_of(line, _delimiter(line)))


def _cells_of(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _rows(rows: Any, into: Collected) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty with the number of its last line; a row that is not CSV is a problem."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            into.add_problem(f"this is not CSV: {error}", rows.line_num)
            continue
        if any(cell.strip() for cell in row):
            yield rows.line_num, row


def _delimiter(text: str) -> str:
    """Return the delimiter with which the first line has a column `url`, and most columns."""
    first = next((line for line in re.split(r"[\r\n]", text[:_LONGEST_HEADER]) if line.strip()), "")

    def rank(delimiter: str) -> tuple[bool, int]:
        cells = _cells_of(first, delimiter)
        return any(_rank(cell)[0] == "url" for cell in cells), len(cells)

    return max(_DELIMITERS, key=rank)


def _rank(cell: str) -> tuple[str, int]:
    """Return what a column of this name holds, and how far its name is from the plainest; "" if it is not understood."""
    plain = "".join(c for c in cell.lower() if c.isalnum())
    if plain.removesuffix("sum").removesuffix("hash") in _ALGORITHMS:
        return plain.removesuffix("sum").removesuffix("hash"), 0
    return next(((ours, theirs.index(plain)) for ours, theirs in _NAMES.items() if plain in theirs), ("", 0))


class _Table:
    """The columns of a table, and the way from a row to a product."""

    def __init__(self, header: list[str], delimiter: str, into: Collected) -> None:
        self.columns: dict[str, int] = {}
        """Index of each column that is used; of several with one meaning the one with the plainest name."""
        self._width = len(header)
        self._delimiter = delimiter
        self._into = into
        ranked = sorted((_rank(cell), index) for index, cell in enumerate(header))
        for (key, _), index in ranked:
            if key:
                self.columns.setdefault(key, index)
        used = self.columns.values()
        unused = [f'"{cell.strip()[:40]}"' for index, cell in enumerate(header) if cell.strip() and index not in used]
        if unused and "url" in self.columns:
            into.warn(f"columns that were not used: {', '.join(unused)}")

    def add(self, row: list[str], line: int) -> None:
        cells = self._cells(row)
        if cells is None:
            message = (
                f"{len(row)} cells where the header has {self._width}; put a URL or text with {self._shown} in quotes"
            )
            self._into.add_problem(message, line)
            return
        found = {name: cells[index].strip() for name, index in self.columns.items()}
        checksums = [f"{name}:{found[name]}" for name in _ALGORITHMS if found.get(name)]
        checksums += found.get("checksum", "").split()
        self._into.add(
            [found["url"], *found.get("mirrors", "").split()],
            line=line,
            file=found.get("file"),
            size=self._size(found.get("size", "")),
            checksums=checksums,
            account=found.get("account"),
        )

    @property
    def _shown(self) -> str:
        return {",": "a comma", ";": "a semicolon", "\t": "a tab"}.get(self._delimiter, f"a {self._delimiter}")

    def _cells(self, row: list[str]) -> list[str] | None:
        """Return the cells by column; None if it cannot be told which of too many cells belong together.

        A delimiter in a text without quotes makes one cell too many. The row is used if only one way to join the
        cells again gives an http(s) URL where the URL belongs, and a size and checksums where those belong.
        """
        while len(row) > self._width and not row[-1].strip():
            row = row[:-1]
        extra = len(row) - self._width
        if extra <= 0:
            return row + [""] * -extra
        ways = [
            [*row[:i], self._delimiter.join(row[i : i + extra + 1]), *row[i + extra + 1 :]] for i in range(self._width)
        ]
        possible = [way for way in ways if self._is_possible(way)]
        return possible[0] if len(possible) == 1 else None

    def _is_possible(self, cells: list[str]) -> bool:
        by_name = {name: cells[index].strip() for name, index in self.columns.items()}
        size = by_name.get("size", "")
        if size and (self._delimiter in size or not (_SIZE.fullmatch(size) or _ROUNDED.fullmatch(size))):
            return False
        if any(by_name.get(name) and not by_name[name].isalnum() for name in _ALGORITHMS):
            return False
        try:
            return bool(Url(by_name["url"].replace(" ", "%20")))
        except ValueError:
            return False

    def _size(self, text: str) -> str | None:
        """Return the bytes; None for a rounded size such as `12.3 MB`, which would refuse the right product."""
        if (exact := _SIZE.fullmatch(text)) is not None:
            return exact[1] or re.sub(r"\D", "", text)
        try:
            units.parse_size(text)
        except ValueError:
            if not _ROUNDED.fullmatch(text):
                return text
        self._into.warn("sizes that are rounded, such as 12.3 MB, were not used: a product's size is known to the byte")
        return None
