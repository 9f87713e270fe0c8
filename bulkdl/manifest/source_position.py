"""Places of values in a YAML file: line, column and path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


__all__ = ["Mark", "Place", "place_of", "places_of"]


class Mark(Protocol):
    """Where libyaml saw an event begin, both from 0."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


@dataclass(slots=True)
class Place:
    """Where a value stands, and where its keys and items do: those become places when they are asked for."""

    line: int
    column: int
    keys: dict[str, Place | Mark] | None = None
    items: Mapping[str, Place | Mark] | Sequence[Place | Mark] | None = None
    label: str = ""
    """A name for the place of a value that has no line, such as `products[3].url`."""

    def at(self, *path: str | int) -> Place:
        """The place of the value at `path`, or of the nearest value around it that has one."""
        place = self
        for step in path:
            items: Any = place.items
            try:
                place = place_of(items[step])
            except (KeyError, IndexError, TypeError):
                return place
        return place

    def line_of(self, key: str) -> int:
        """`at(key).line` of a key that is there, without a place for each of very many."""
        items: Any = self.items
        there: Place | Mark = items[key]
        return there.line if isinstance(there, Place) else there.line + 1

    def key(self, *path: str | int) -> Place:
        """The place of the last key of `path`, else that of its value."""
        keys = self.at(*path[:-1]).keys or {}
        key = str(path[-1])
        return place_of(keys[key]) if key in keys else self.at(*path)


def places_of(value: object, label: str = "") -> Place:
    """Places for values that were never in a file: no lines, but names such as `products[3].url`."""
    place = Place(0, 0, label=label)
    if isinstance(value, dict):
        dot = f"{label}." if label else ""
        place.items = {key: places_of(child, f"{dot}{key}") for key, child in value.items()}
    elif isinstance(value, list):
        place.items = [places_of(child, f"{label}[{i}]") for i, child in enumerate(value)]
    return place


def place_of(there: Place | Mark) -> Place:
    return there if isinstance(there, Place) else Place(there.line + 1, there.column + 1)
