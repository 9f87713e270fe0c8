"""Plain list of URLs, one per line; `#` starts a comment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]


def read(text: str, into: Collected) -> None:
    """Add the URL of every line that is neither empty nor a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            into.add([line], line=number)
