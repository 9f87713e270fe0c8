"""Small helpers for text that is shown to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


__all__ = ["clean", "count", "titled"]


def titled(title: str, lines: Sequence[str]) -> Iterator[str]:
    """A block of lines with an empty line and a title before it; nothing where there are no lines."""
    if lines:
        yield ""
        yield title
        yield from (f"  {clean(line)}" for line in lines)


def count(number: int, one: str, many: str = "") -> str:
    """`1 product`, `2,000 products`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def clean(text: str) -> str:
    """Text from outside on one line, its control characters made visible: nothing it holds can drive a terminal."""
    return "".join(c if c.isprintable() else _visible(c) for c in text)


def _visible(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")
