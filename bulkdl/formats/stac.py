"""STAC item, item collection or list of items: assets with `file:size` and `file:checksum`."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from bulkdl.core import filenames
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.formats.json_helpers import count, mapping, mappings, parse, text
from bulkdl.manifest.product_names import common_depth

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
_NODE = re.compile(r"Nodes\((.+)\)")
"""A step of the path inside a product, in the OData services of Copernicus."""
_WHOLE_PRODUCT = re.compile(r"Products\(.+\)")
_EXTRAS = frozenset({"thumbnail", "overview", "metadata"})
_WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asset:
    """An asset with at least one http(s) URL."""

    item: str
    key: str
    urls: list[str]
    path: tuple[str, ...]
    """Names of the steps to it; the last is its own."""
    size: int | None
    checksums: list[str]


def read(source: str, into: Collected) -> None:
    """Add every asset with an http(s) URL, in a folder named after its item."""
    document = parse(source, into)
    if document is None:
        return
    result = mapping(document)
    items = mappings(result.get("features")) or mappings(document)
    if not items and result.get("assets"):
        items = [result]
    if not items:
        empty = isinstance(result.get("features"), list)
        into.add_problem(
            "the STAC result has no items" if empty else "expected a STAC item or an item collection with `features`"
        )
    folders = [_folder(item) for item in items]
    shared = Counter(map(filenames.fold, folders))
    for item, folder in zip(items, folders, strict=True):
        collection = text(item.get("collection"))
        if shared[filenames.fold(folder)] > 1 and collection:
            folder = f"{filenames.safe_component(collection)}/{folder}"  # noqa: PLW2901
        _add_item(item, folder, into.base_url or _self_link(item) or _self_link(result), into)
    _note_other_pages(result, len(items), into)


def _note_other_pages(result: dict[str, Any], here: int, into: Collected) -> None:
    totals = (result.get("numberMatched"), mapping(result.get("context")).get("matched"))
    total = next((number for number in map(count, totals) if number is not None), None)
    following = any(text(link.get("rel")).lower() == "next" for link in mappings(result.get("links")))
    if following or (total is not None and total > here > 0):
        into.incomplete = (
            f"this is one page of the STAC result: {here} of {total if total is not None else 'more'} items. Ask for "
            "all of them (limit, or follow the link `next`) and convert every page"
        )


def _folder(item: dict[str, Any]) -> str:
    return filenames.safe_component(text(item.get("id")) or "item")


def _self_link(item: dict[str, Any]) -> str | None:
    """Return the URL of the item itself, to which its relative links refer."""
    links = (text(link.get("href")) for link in mappings(item.get("links")) if link.get("rel") == "self")
    return next((href for href in links if href.startswith(_WEB)), None)


def _add_item(item: dict[str, Any], folder: str, base: str | None, into: Collected) -> None:
    if text(mapping(item.get("properties")).get("order:status")) in {"orderable", "ordered", "pending", "shipping"}:
        into.warn(f"{folder} is not online yet (order:status); the archive must restore it first")
    assets = []
    for key, value in mapping(item.get("assets")).items():
        asset = mapping(value)
        if asset.get("auth:refs"):
            into.warn("the assets need a login (`auth:refs`): set an account under `defaults` in the manifest")
        if urls := list(_urls(asset, base)):
            assets.append(
                _Asset(
                    item=folder,
                    key=key,
                    urls=urls,
                    path=_local_path(asset, folder) or _path(urls[0]) or (_name_of(key, asset),),
                    size=count(asset.get("file:size")),
                    checksums=_checksums(asset, into),
                )
            )
            continue
        message = f"{folder}: the asset {key[:60]} has no http(s) URL and was left out"
        if _EXTRAS.intersection(asset["roles"] if isinstance(asset.get("roles"), list) else ()):
            into.warn(message)
        else:
            into.add_problem(message)
    if not item.get("assets"):
        into.add_problem(f"{folder}: the item has no assets")
    for found, file in zip(assets, _files(assets), strict=True):
        where = f"{folder}, asset {found.key[:60]}"
        into.add(found.urls, where=where, file=file, size=found.size, checksums=found.checksums)


def _files(assets: list[_Asset]) -> list[str]:
    """Return a file for each asset of one item: its own name, with as much of its path as tells it from the others."""
    folded = [tuple(filenames.fold(step) for step in asset.path) for asset in assets]
    whole = Counter(folded)
    alike: dict[str, list[tuple[str, ...]]] = {}
    for path in folded:
        alike.setdefault(path[-1], []).append(path)
    depths = {name: common_depth(paths) for name, paths in alike.items()}
    files = []
    for asset, path in zip(assets, folded, strict=True):
        if whole[path] > 1:
            name = filenames.safe_component(asset.key) + filenames.split_suffix(asset.path[-1])[1]
        else:
            name = "/".join(asset.path[-depths[path[-1]] :])
        files.append(f"{asset.item}/{name}")
    return files


def _urls(asset: dict[str, Any], base: str | None) -> Iterator[str]:
    """Yield the http(s) URLs of an asset: its own, then the alternate ones."""
    alternates = (text(mapping(other).get("href")) for other in mapping(asset.get("alternate")).values())
    for href in (text(asset.get("href")), *alternates):
        if href.lower().startswith(_WEB):
            yield href
        elif href and base is not None and not _scheme(href):
            yield urljoin(base, href)


def _scheme(href: str) -> str:
    try:
        return urlsplit(href).scheme
    except ValueError:
        return "none"


def _path(url: str) -> tuple[str, ...]:
    """Return the names of the steps to the file that a URL gives; those of `Nodes(NAME)` are without the brackets."""
    steps: list[str] = []
    for segment in map(unquote, url.partition("?")[0].partition("#")[0].split("/")[3:]):
        if _WHOLE_PRODUCT.fullmatch(segment):
            steps = []  # what stands before it names the service
        elif segment.strip(". ") and segment != "$value":
            node = _NODE.fullmatch(segment)
            steps.append(filenames.safe_component(segment if node is None else node[1]))
    return tuple(steps)


def _name_of(key: str, asset: dict[str, Any]) -> str:
    name = filenames.safe_component(key)
    return f"{name}.zip" if "zip" in text(asset.get("type")) and not filenames.split_suffix(name)[1] else name


def _local_path(asset: dict[str, Any], folder: str) -> tuple[str, ...]:
    """Return the steps of `file:local_path`, without the folder that has the name of the item; () if there is none."""
    given = text(asset.get("file:local_path")).replace("\\", "/")
    if not given or filenames.check_relative(given) is not None:
        return ()
    steps = [filenames.safe_component(step) for step in given.split("/") if step not in {"", "."}]
    if len(steps) > 1 and steps[0].startswith(folder.rpartition("/")[2]):
        steps = steps[1:]
    return tuple(steps)


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
