"""OData search result of the Copernicus services: `value` with `Id`, `Name`, `ContentLength` and `Checksum`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bulkdl.content.signatures import file_type_of
from bulkdl.core import filenames
from bulkdl.formats.json_helpers import count, mapping, mappings, parse, text

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_CDSE = "https://download.dataspace.copernicus.eu/odata/v1/"
_ALGORITHMS = frozenset({"MD5", "SHA1", "SHA256", "SHA512", "BLAKE3"})
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".gz")
_FOLDERS = (".safe", ".sen3", ".sen6")
"""Suffixes of products that are folders: the services deliver them as zip files."""


def read(source: str, into: Collected) -> None:
    """Add every product; the base URL is that of the service (by default CDSE)."""
    document = parse(source, into)
    if document is None:
        return
    result = mapping(document)
    entries = mappings(result.get("value")) or mappings(document)
    if not entries and result.get("Id"):
        entries = [result]
    if not entries:
        empty = isinstance(result.get("value"), list)
        into.add_problem(
            "the OData result has no products" if empty else "expected an OData result with products under `value`"
        )
    if into.base_url is None:
        into.warn(f"the products will be downloaded from {_CDSE}; use --base-url for another service")
    base = (into.base_url or _CDSE).rstrip("/")
    files = [_file(entry) for entry in entries]
    shared = Counter(filenames.fold(file) for file in files)
    for entry, file in zip(entries, files, strict=True):
        alone = shared[filenames.fold(file)] == 1
        _add(
            entry,
            base,
            file if alone or not file else f"{filenames.safe_component(text(entry.get('Id')))}/{file}",
            into,
        )
    _note_other_pages(result, len(entries), into)


def _note_other_pages(result: dict[str, Any], here: int, into: Collected) -> None:
    total = count(result.get("@odata.count"))
    if (total is not None and total > here > 0) or text(result.get("@odata.nextLink") or result.get("odata.nextLink")):
        into.incomplete = (
            f"this is one page of the OData result: {here} of {total if total is not None else 'more'} products. Ask "
            "for all of them ($top, or follow @odata.nextLink) and convert every page"
        )


def _add(entry: dict[str, Any], base: str, file: str, into: Collected) -> None:
    key, name = text(entry.get("Id")), text(entry.get("Name"))
    if not key:
        into.add_problem(f"a product without `Id` ({name[:80]})")
        return
    if entry.get("Online") is False:
        into.warn(f"{name or key} is offline at the archive")
    into.add(
        [f"{base}/Products({key})/$value"],
        where=name or key,
        file=file or None,
        is_hint=_is_hint(file, text(entry.get("ContentType")).lower()),
        size=count(entry.get("ContentLength")) or None,  # this catalogue uses 0 for an unknown size
        checksums=[
            f"{text(c.get('Algorithm'))}:{text(c.get('Value'))}"
            for c in mappings(entry.get("Checksum"))
            if text(c.get("Algorithm")).upper().replace("-", "") in _ALGORITHMS and text(c.get("Value"))
        ],
    )


def _is_hint(file: str, content_type: str) -> bool:
    """Return whether what arrives may be of another type than the name: this catalogue names what is in a zip file."""
    known = file_type_of(file) is not None and not file.lower().endswith(_ARCHIVES)
    return known and content_type in {"", "application/octet-stream", "binary/octet-stream"}


def _file(entry: dict[str, Any]) -> str:
    """Return the file name of a product: a folder (`.SAFE`), or what the catalogue calls a zip file, is one; else `Name`."""
    name = text(entry.get("Name"))
    if not name:
        return ""
    safe = filenames.safe_component(name)
    stem, suffix = filenames.split_suffix(safe)
    if safe.lower().endswith(_ARCHIVES):
        return safe
    is_zip = "zip" in text(entry.get("ContentType")).lower()
    is_folder = safe.lower().endswith(_FOLDERS) or not suffix or suffix[1:].isdigit() or not stem
    return filenames.safe_component(f"{safe}.zip") if is_zip or is_folder else safe
