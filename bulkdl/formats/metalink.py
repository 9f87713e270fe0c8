"""Metalink 4 (RFC 5854) and Metalink 3."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_KNOWN = re.compile(r"md5|sha-?1|sha-?256|sha-?512|blake3", re.IGNORECASE)
_DEFAULT_PRIORITY = 999_999
"""Priority of a URL without one (RFC 5854 §4.2.17.2)."""
_WEB = frozenset({"", "http", "https"})
_METADATA = (".torrent", ".metalink", ".meta4")


def read(text: str, into: Collected) -> None:
    """Add every `file`, with its URLs in order of priority."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        into.add_problem("the file has a document type or an entity; Metalink files need neither", 1)
        return
    try:
        root = ET.fromstring(text)  # noqa: S314 - entities, which could grow without limit, are refused above
    except ET.ParseError as error:
        line, _ = error.position
        into.add_problem(f"this is not XML ({str(error).partition(':')[0]})", line)
        return
    if _local(root) != "metalink":
        into.add_problem(f"expected a <metalink> document, found <{_local(root)[:40]}>", 1)
        return
    files = [element for element in root.iter() if _local(element) == "file"]
    for element in files:
        _add(element, into)
    if not files:
        into.add_problem("the Metalink document has no <file>")


def _add(element: ET.Element, into: Collected) -> None:
    name = element.get("name", "").strip()
    where = f'the <file> named "{name[:80]}"'
    children = list(_without_pieces(element))
    urls = [child for child in children if _local(child) == "url" and _text(child)]
    usable = [child for child in urls if _is_web(child, name)]
    hashes = [child for child in children if _local(child) == "hash"]
    if not usable and (urls or any(_local(child) == "metaurl" for child in children)):
        kinds = sorted({_kind(child) for child in urls} | ({"metaurl"} if not urls else set()))
        into.add_problem(f"{where}: it has no http:// or https:// URL, only {', '.join(kinds)}")
        return
    into.add(
        [_text(url) for url in sorted(usable, key=_rank)],
        where=where,
        file=name or None,
        size=next((_text(child) for child in children if _local(child) == "size"), None),
        checksums=[f"{h.get('type')}:{_text(h)}" for h in hashes if _KNOWN.fullmatch(h.get("type", ""))],
    )


def _is_web(url: ET.Element, name: str) -> bool:
    """Return whether a URL gives the file itself over http(s).

    In Metalink 3 the `type` says what is there (`bittorrent`, `ftp`, …): a torrent file has an http URL too.
    """
    if url.get("type", "").strip().lower() not in _WEB or _scheme(url) not in _WEB:
        return False
    path = _text(url).partition("?")[0].partition("#")[0].lower()
    return not path.endswith(_METADATA) or name.lower().endswith(_METADATA)


def _kind(url: ET.Element) -> str:
    return (url.get("type") or _scheme(url) or "others")[:20]


def _scheme(url: ET.Element) -> str:
    try:
        return urlsplit(_text(url)).scheme.lower()
    except ValueError:
        return "others"


def _without_pieces(element: ET.Element) -> Iterator[ET.Element]:
    for child in element:
        if _local(child) != "pieces":
            yield child
            yield from _without_pieces(child)


def _rank(url: ET.Element) -> int:
    """Return the rank of a URL, lower is better: `priority`, or version 3's `preference` (100 is best) inverted."""
    try:
        if "preference" in url.attrib:
            return 100 - int(url.attrib["preference"])
        return int(url.get("priority", _DEFAULT_PRIORITY))
    except ValueError:
        return _DEFAULT_PRIORITY


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2].lower()


def _text(element: ET.Element) -> str:
    return (element.text or "").strip()
