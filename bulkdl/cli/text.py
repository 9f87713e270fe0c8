"""Helpers for text that is printed for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


__all__ = ["clean", "count", "titled"]


def titled(title: str, lines: Sequence[str]) -> Iterator[str]:
    """Yield an empty line, the title and the indented lines; yield nothing if there are no lines."""
    if lines:
        yield ""
        yield title
        yield from (f"  {clean(line)}" for line in lines)


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 product`, `2,000 products`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def clean(text: str) -> str:
    """Return foreign text on one line with escaped control characters, so that it cannot control the terminal."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")
