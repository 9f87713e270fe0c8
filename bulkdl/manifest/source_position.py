"""Positions of values in a YAML file: line, column and path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


__all__ = ["Mark", "Place", "place_of", "places_of"]


class Mark(Protocol):
    """The position at which libyaml saw an event start; line and column count from 0."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


@dataclass(slots=True)
class Place:
    """Position of a value and of its keys and items; line and column count from 1.

    Keys and items stay libyaml marks and become a `Place` only on request, because most are never needed.
    """

    line: int
    column: int
    keys: dict[str, Place | Mark] | None = None
    items: Mapping[str, Place | Mark] | Sequence[Place | Mark] | None = None
    label: str = ""
    """Path of a value that did not come from a file, such as `products[3].url`; it has no line."""

    def at(self, *path: str | int) -> Place:
        """Return the position of the value at `path`, or of the nearest enclosing value that has one."""
        place = self
        for step in path:
            items: Any = place.items
            try:
                place = place_of(items[step])
            except (KeyError, IndexError, TypeError):
                return place
        return place

    def line_of(self, key: str) -> int:
        """Return `at(key).line` of an existing key without creating a `Place`; called for every product."""
        items: Any = self.items
        there: Place | Mark = items[key]
        return there.line if isinstance(there, Place) else there.line + 1

    def key(self, *path: str | int) -> Place:
        """Return the position of the last key of `path`, or of its value if the key has none."""
        keys = self.at(*path[:-1]).keys or {}
        key = str(path[-1])
        return place_of(keys[key]) if key in keys else self.at(*path)


def places_of(value: object, label: str = "") -> Place:
    """Return positions for values that did not come from a file: no lines, but paths such as `products[3].url`."""
    place = Place(0, 0, label=label)
    if isinstance(value, dict):
        dot = f"{label}." if label else ""
        place.items = {key: places_of(child, f"{dot}{key}") for key, child in value.items()}
    elif isinstance(value, list):
        place.items = [places_of(child, f"{label}[{i}]") for i, child in enumerate(value)]
    return place


def place_of(there: Place | Mark) -> Place:
    return there if isinstance(there, Place) else Place(there.line + 1, there.column + 1)
