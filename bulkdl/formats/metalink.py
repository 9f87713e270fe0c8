"""Metalink 4 (RFC 5854), and its predecessor 3 as far as they are alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_KNOWN = re.compile(r"md5|sha-?1|sha-?256|sha-?512|blake3", re.IGNORECASE)
_LAST = 999_999
"""RFC 5854 §4.2.17.2: the priority of a URL that names none."""


def read(text: str, into: Collected) -> None:
    """Take every `file` with its URLs in the order of their priority."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        into.wrong("a document type or an entity, which a Metalink file has no use for", 1)
        return
    try:
        root = ET.fromstring(text)  # noqa: S314 - without entities there is nothing that could grow
    except ET.ParseError as error:
        line, _ = error.position
        into.wrong(f"this is not XML ({str(error).partition(':')[0]})", line)
        return
    if _local(root) != "metalink":
        into.wrong(f"expected a <metalink> document, found <{_local(root)[:40]}>", 1)
        return
    files = [element for element in root.iter() if _local(element) == "file"]
    for element in files:
        _take(element, into)
    if not files:
        into.wrong("the Metalink document has no <file>")


def _take(element: ET.Element, into: Collected) -> None:
    children = list(_without_pieces(element))
    ranked = [(_rank(child), _text(child)) for child in children if _local(child) == "url"]
    hashes = [child for child in children if _local(child) == "hash"]
    before = len(into.problems)
    into.add(
        [url for _, url in sorted(ranked, key=lambda pair: pair[0])],
        file=element.get("name"),
        size=next((_text(child) for child in children if _local(child) == "size"), None),
        checksums=[f"{h.get('type')}:{_text(h)}" for h in hashes if _KNOWN.fullmatch(h.get("type", ""))],
    )
    if len(into.problems) > before:
        into.wrong(f"... in the <file> called {element.get('name', '')[:80]!r}")


def _without_pieces(element: ET.Element) -> Iterator[ET.Element]:
    for child in element:
        if _local(child) != "pieces":
            yield child
            yield from _without_pieces(child)


def _rank(url: ET.Element) -> int:
    """Smaller is better: `priority` as it is, version 3's `preference` (100 is best) turned round."""
    try:
        if "preference" in url.attrib:
            return 100 - int(url.attrib["preference"])
        return int(url.get("priority", _LAST))
    except ValueError:
        return _LAST


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element) -> str:
    return (element.text or "").strip()
