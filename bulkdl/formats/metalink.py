"""Metalink 4 (RFC 5854), and the parts of Metalink 3 that are the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_KNOWN = re.compile(r"md5|sha-?1|sha-?256|sha-?512|blake3", re.IGNORECASE)
_DEFAULT_PRIORITY = 999_999
"""Priority of a URL without one (RFC 5854 §4.2.17.2)."""


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
        into.add_problem(f"... in the <file> named {element.get('name', '')[:80]!r}")


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
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element) -> str:
    return (element.text or "").strip()
