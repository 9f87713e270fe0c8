"""A plain list of URLs, one a line; `#` begins a comment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]


def read(text: str, into: Collected) -> None:
    """Take every line that says something."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            into.add([line], line=number)
