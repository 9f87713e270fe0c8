"""STAC item, item collection or list of items: assets with `file:size` and `file:checksum`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bulkdl.core import filenames
from bulkdl.formats.json_helpers import mapping, mappings, parse, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.formats.collector import Collected

__all__ = ["from_multihash", "read"]

_MULTIHASH = {
    "d50110": ("md5", 32),
    "1114": ("sha1", 40),
    "1220": ("sha256", 64),
    "1340": ("sha512", 128),
    "1e20": ("blake3", 64),
}
"""Multihash prefix (code and length, in hex) -> algorithm and number of hex digits."""


def read(source: str, into: Collected) -> None:
    """Add every asset with an http(s) URL, in a folder named after its item."""
    document = parse(source, into)
    if document is None:
        return
    items = mappings(mapping(document).get("features")) or mappings(document)
    if not items and mapping(document).get("assets"):
        items = [document]
    if not items:
        into.add_problem("expected a STAC item or an item collection with `features`")
    for item in items:
        _add_item(item, into)


def _add_item(item: dict[str, Any], into: Collected) -> None:
    folder = filenames.safe_component(text(item.get("id")) or "item")
    if text(mapping(item.get("properties")).get("order:status")) in {"orderable", "ordered", "pending", "shipping"}:
        into.warn(f"{folder} is not online yet (order:status); the archive must restore it first")
    for name, value in mapping(item.get("assets")).items():
        asset = mapping(value)
        urls = [url for url in _hrefs(asset) if into.base_url or url.startswith(("http://", "https://"))]
        if not urls:
            into.warn(f"{folder}: the asset {name[:60]} has no http(s) URL and was left out")
            continue
        if asset.get("auth:refs"):
            into.warn("the assets need a login (`auth:refs`): set an account under `defaults` in the manifest")
        last = urls[0].partition("?")[0].rpartition("/")[2]
        size = asset.get("file:size")
        into.add(
            urls,
            file=f"{folder}/{filenames.safe_component(last or name)}",
            size=size if isinstance(size, int) and not isinstance(size, bool) else None,
            checksums=_checksums(asset, into),
        )


def _hrefs(asset: dict[str, Any]) -> Iterator[str]:
    yield text(asset.get("href"))
    for other in mapping(asset.get("alternate")).values():
        yield text(mapping(other).get("href"))


def _checksums(asset: dict[str, Any], into: Collected) -> list[str]:
    given = text(asset.get("file:checksum"))
    if not given:
        return []
    found = from_multihash(given)
    if found is None:
        into.warn(f"a `file:checksum` of an unknown kind ({given[:8]}…) was left out")
        return []
    return [found]


def from_multihash(digest: str) -> str | None:
    """Return `algorithm:hex` for a multihash in hex; None if its algorithm is unknown or its length is wrong."""
    lower = digest.strip().lower()
    for prefix, (algorithm, length) in _MULTIHASH.items():
        rest = lower.removeprefix(prefix)
        if rest != lower and len(rest) == length and all(c in "0123456789abcdef" for c in rest):
            return f"{algorithm}:{rest}"
    return None
