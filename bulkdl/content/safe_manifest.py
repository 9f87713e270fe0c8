"""Read the checksums in a SAFE product's manifest: `manifest.safe`, `xfdumanifest.xml` (XFDU, CCSDS 661.0-B-1)."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.parsers import expat

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["MAX_MANIFEST_BYTES", "SafeFile", "is_safe_manifest", "parse_safe"]

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
"""Largest manifest that is read, in bytes; a usual one has about 100 KB."""

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
    """One file with its checksum in the manifest."""

    path: str
    """Path in the archive, with `/`."""
    algorithm: str
    """Name in hashlib."""
    hex: str
    """Lower case."""


def is_safe_manifest(member: str) -> bool:
    """Tell whether an archive member is a SAFE manifest: at the top level or in a folder there."""
    folder, _, name = member.rpartition("/")
    return name.lower() in _NAMES and "/" not in folder


def parse_safe(data: bytes, *, manifest: str, members: Collection[str] = ()) -> tuple[SafeFile, ...]:
    """Return the files for which `data`, the archive member `manifest`, gives a checksum of a known algorithm.

    `members` decides whether a `%20` in a reference is literal. Raise `ValueError` or `expat.ExpatError` if `data` is
    not plain XML; entity and document type declarations are refused.
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
    raise ValueError("it declares a document type, which a SAFE manifest must not contain")


def _resolve(folder: str, href: str, members: Collection[str]) -> str:
    path = posixpath.normpath(posixpath.join(folder, href))
    decoded = posixpath.normpath(posixpath.join(folder, unquote(href)))
    return decoded if decoded in members and path not in members else path


class _Reader:
    """Collects each `byteStream` with its `fileLocation href` and its `checksum` (`checksumName`)."""

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
                spelled = attributes.get("checksumName", "").lower().replace("-", "").replace("_", "")
                self._algorithm = _ALGORITHMS.get(spelled)
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
