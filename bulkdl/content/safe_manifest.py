"""What a SAFE product's own manifest says of its files (XFDU, CCSDS 661.0-B-1): `manifest.safe`, `xfdumanifest.xml`."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.parsers import expat

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["MOST_BYTES", "SafeFile", "is_safe_manifest", "parse_safe"]

MOST_BYTES = 16 * 1024 * 1024
"""A manifest is some 100 KB; a larger one than this is not read."""

_NAMES = ("manifest.safe", "xfdumanifest.xml")
_ALGORITHMS = {
    "md5": "md5",
    "sha1": "sha1",
    "sha256": "sha256",
    "sha512": "sha512",
    "sha3256": "sha3_256",
    "sha3512": "sha3_512",
}


@dataclass(frozen=True, slots=True)
class SafeFile:
    """One file that the manifest lists with a checksum."""

    path: str
    """Relative to the archive, with `/`."""
    algorithm: str
    """As hashlib names it."""
    hex: str
    """Lower case."""


def is_safe_manifest(member: str) -> bool:
    """Tell whether an archive member is a product's own manifest: at the top or in the one folder there."""
    folder, _, name = member.rpartition("/")
    return name.lower() in _NAMES and "/" not in folder


def parse_safe(data: bytes, *, manifest: str, members: Collection[str] = ()) -> tuple[SafeFile, ...]:
    """List the files that `data`, the archive member `manifest`, gives a known checksum for.

    `members` settles whether a `%20` in a reference is meant literally. Raise `ValueError` or `expat.ExpatError` when
    it is no plain XML; declarations of entities and document types are refused.
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.Parse(data, True)
    folder = posixpath.dirname(manifest)
    return tuple(
        SafeFile(_resolve(folder, href, members), algorithm, digest) for href, algorithm, digest in reader.found
    )


def _refuse_doctype(*_declaration: object) -> None:
    raise ValueError("it declares a document type, which a SAFE manifest has no use for")


def _resolve(folder: str, href: str, members: Collection[str]) -> str:
    path = posixpath.normpath(posixpath.join(folder, href))
    decoded = posixpath.normpath(posixpath.join(folder, unquote(href)))
    return decoded if decoded in members and path not in members else path


class _Reader:
    """Follows `byteStream` (`fileLocation href`, `checksum checksumName`) inside each `dataObject`."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []
        self._href = ""
        self._algorithm: str | None = None
        self._digest: str | None = None
        self._text: list[str] | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        match name.rpartition(" ")[2]:
            case "byteStream":
                self._href, self._algorithm, self._digest = "", None, None
            case "fileLocation":
                self._href = attributes.get("href", "")
            case "checksum":
                spelt = attributes.get("checksumName", "").lower().replace("-", "").replace("_", "")
                self._algorithm = _ALGORITHMS.get(spelt)
                self._text = []

    def text(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def end(self, name: str) -> None:
        match name.rpartition(" ")[2]:
            case "checksum" if self._text is not None:
                self._digest = "".join(self._text).strip().lower()
                self._text = None
            case "byteStream" if self._href and "://" not in self._href and self._algorithm and self._digest:
                self.found.append((self._href, self._algorithm, self._digest))
