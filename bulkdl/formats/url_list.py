"""Plain list of URLs, one per line; `#` starts a comment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.formats.lines import numbered

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]


def read(text: str, into: Collected) -> None:
    """Add the URL of every line that is neither empty nor a comment; with other text it is no list of URLs."""
    for number, line in numbered(text):
        if line.strip() and not line.lstrip().startswith("#"):
            into.is_wrong = into.is_wrong or "://" not in line
            into.add([line], line=number)
