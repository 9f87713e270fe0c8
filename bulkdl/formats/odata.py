"""OData search result of the Copernicus services: `value` with `Id`, `Name`, `ContentLength` and `Checksum`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bulkdl.core import filenames
from bulkdl.formats.json_helpers import mapping, mappings, parse, text

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_CDSE = "https://download.dataspace.copernicus.eu/odata/v1/"
_ALGORITHMS = frozenset({"MD5", "SHA1", "SHA256", "SHA512", "BLAKE3"})


def read(source: str, into: Collected) -> None:
    """Add every product; the base URL is that of the service (by default CDSE)."""
    document = parse(source, into)
    if document is None:
        return
    entries = mappings(mapping(document).get("value"))
    if not entries and mapping(document).get("Id"):
        entries = [document]
    if not entries:
        into.add_problem("expected an OData result with products under `value`")
    if into.base_url is None:
        into.warn(f"the products will be downloaded from {_CDSE}; use --base-url for another service")
    base = (into.base_url or _CDSE).rstrip("/")
    for entry in entries:
        _add(entry, base, into)


def _add(entry: dict[str, Any], base: str, into: Collected) -> None:
    key, name = text(entry.get("Id")), text(entry.get("Name"))
    if not key:
        into.add_problem(f"a product without `Id` ({name[:80]})")
        return
    if entry.get("Online") is False:
        into.warn(f"{name or key} is offline at the archive")
    size = entry.get("ContentLength")
    into.add(
        [f"{base}/Products({key})/$value"],
        file=_with_zip_suffix(name) if name else None,
        # This catalogue uses 0 for an unknown size.
        size=size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None,
        checksums=[
            f"{text(c.get('Algorithm'))}:{text(c.get('Value'))}"
            for c in mappings(entry.get("Checksum"))
            if text(c.get("Algorithm")).upper().replace("-", "") in _ALGORITHMS and text(c.get("Value"))
        ],
    )


def _with_zip_suffix(name: str) -> str:
    safe = filenames.safe_component(name)
    return safe if safe.lower().endswith((".zip", ".tar", ".nc", ".tif", ".tiff")) else f"{safe}.zip"
