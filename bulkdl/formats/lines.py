"""Lines of a text with their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["numbered"]


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield every line, without its line end, and its number from 1.

    `str.splitlines` would also split at characters that a name may have, such as U+2028.
    """
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line.removesuffix("\r")
