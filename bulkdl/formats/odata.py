"""An OData search result of the Copernicus services: `value` with `Id`, `Name`, `ContentLength` and `Checksum`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bulkdl.core import filenames
from bulkdl.formats.json_helpers import mapping, mappings, parse, text

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_CDSE = "https://download.dataspace.copernicus.eu/odata/v1/"
_KNOWN = frozenset({"MD5", "SHA1", "SHA256", "SHA512", "BLAKE3"})


def read(source: str, into: Collected) -> None:
    """Take every product; the base URL is the service's (CDSE's where none is given)."""
    document = parse(source, into)
    if document is None:
        return
    entries = mappings(mapping(document).get("value"))
    if not entries and mapping(document).get("Id"):
        entries = [document]
    if not entries:
        into.wrong("expected an OData result with products under `value`")
    if into.base_url is None:
        into.warn(f"the products are taken from {_CDSE}; --base-url names another service")
    base = (into.base_url or _CDSE).rstrip("/")
    for entry in entries:
        _take(entry, base, into)


def _take(entry: dict[str, Any], base: str, into: Collected) -> None:
    key, name = text(entry.get("Id")), text(entry.get("Name"))
    if not key:
        into.wrong(f"a product without `Id` ({name[:80]})")
        return
    if entry.get("Online") is False:
        into.warn(f"{name or key} is offline at the archive")
    size = entry.get("ContentLength")
    into.add(
        [f"{base}/Products({key})/$value"],
        file=_zip_of(name) if name else None,
        # Nought stands for "not known" in this catalogue.
        size=size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None,
        checksums=[
            f"{text(c.get('Algorithm'))}:{text(c.get('Value'))}"
            for c in mappings(entry.get("Checksum"))
            if text(c.get("Algorithm")).upper().replace("-", "") in _KNOWN and text(c.get("Value"))
        ],
    )


def _zip_of(name: str) -> str:
    safe = filenames.safe_component(name)
    return safe if safe.lower().endswith((".zip", ".tar", ".nc", ".tif", ".tiff")) else f"{safe}.zip"
