"""Read YAML into plain values with their positions, streaming: one product at a time, from libyaml's events.

Plain scalars follow the core schema of YAML 1.2: `no`, `22:00` and `2024-01-01` are text. Tags outside the core schema,
duplicate keys and a second document are problems. Aliases and merge keys work up to a limit.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.manifest.problems import FatalProblem, excerpt
from bulkdl.manifest.source_position import Mark, Place, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bulkdl.manifest.text_source import Source

__all__ = ["read_yaml"]

_MAX_DEPTH = 50
_TOO_DEEP = f"values are nested more than {_MAX_DEPTH} levels deep"
_MAX_ALIAS_NODES = 100_000
"""Limit of nodes that aliases may add to one product, or to any other top-level value."""
_MAX_ALIAS_NODES_TOTAL = 10_000_000
"""Limit of nodes that aliases may add to the whole file."""
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")
_BASED = re.compile(r"0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_CORE + name for name in ("int", "float", "bool", "null"))


@dataclass(slots=True)
class _Anchor:
    value: object
    place: Place
    weight: int
    height: int


class _Mapping:
    """A mapping that is being read."""

    __slots__ = ("items", "keys", "merges", "place", "value")

    def __init__(self, start: Any) -> None:
        self.value: dict[str, object] = {}
        self.keys: dict[str, Place | Mark] = {}
        self.items: dict[str, Place | Mark] = {}
        self.merges: list[tuple[object, Place]] = []
        self.place = Place(start.start_mark.line + 1, start.start_mark.column + 1, self.keys, self.items)


class _Reader:
    def __init__(self, source: Source, note: Callable[[Place, str], None]) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events: Iterator[Any] = iter(loader(source).get_event, None)
        self._note = note
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = 0
        """Nodes read so far, including those added by aliases."""
        self._expanded = 0
        self._expanded_here = 0
        self._peak = 0

    def document(self, on_product: Callable[[object, Place], None]) -> tuple[object, Place]:
        """Return the top mapping; pass each of its `products` to `on_product` and leave an empty list instead."""
        events = self._events
        next(events)
        event = next(events)
        if type(event) is StreamEndEvent:
            raise FatalProblem(1, 1, "the manifest is empty; expected the key `products`, or a list of URLs")
        event = next(events)
        if type(event) is MappingStartEvent:
            value, place = self._top(event, on_product)
        else:
            value, place = self._node(event, 1)
        next(events)
        event = next(events)
        if type(event) is DocumentStartEvent:
            mark = _place(event)
            self._note(mark, "a second document starts here; expected one manifest in one file")
        return value, place

    def _top(self, start: Any, on_product: Callable[[object, Place], None]) -> tuple[object, Place]:
        head = _Mapping(start)
        for event in self._events:
            if type(event) is MappingEndEvent:
                break
            self._expanded_here = 0
            key, here = self._key(event, 2)
            event = next(self._events)  # noqa: PLW2901
            if key == "products" and key not in head.value and type(event) is SequenceStartEvent:
                self._check_tag(event, "seq")
                self._put(head, key, here, ([], _place(event)))
                self._products(on_product)
            else:
                self._put(head, key, here, self._node(event, 2))
        return self._merged(head)

    def _products(self, on_product: Callable[[object, Place], None]) -> None:
        for event in self._events:
            if type(event) is SequenceEndEvent:
                return
            self._expanded_here = 0
            if type(event) is MappingStartEvent and event.anchor is None and event.tag is None:
                self._nodes += 1
                on_product(*self._mapping(event, 3))
            else:
                on_product(*self._node(event, 3))

    def _node(self, event: Any, depth: int) -> tuple[object, Place]:
        kind = type(event)
        self._nodes += 1
        if kind is ScalarEvent and event.anchor is None and event.tag is None:
            mark = event.start_mark
            value = _resolve(event.value) if event.implicit[0] else event.value
            return value, Place(mark.line + 1, mark.column + 1)
        if kind is AliasEvent:
            return self._alias(event, depth)
        if depth > _MAX_DEPTH:
            raise _fatal(event, _TOO_DEEP)
        if event.anchor is not None:
            return self._anchored(event, depth)
        return self._collection_or_tagged(event, depth)

    def _collection_or_tagged(self, event: Any, depth: int) -> tuple[object, Place]:
        self._peak = max(self._peak, depth)
        kind = type(event)
        if kind is MappingStartEvent:
            self._check_tag(event, "map")
            return self._mapping(event, depth)
        if kind is SequenceStartEvent:
            self._check_tag(event, "seq")
            return self._sequence(event, depth)
        return self._tagged(event), _place(event)

    def _mapping(self, start: Any, depth: int) -> tuple[object, Place]:
        mapping = _Mapping(start)
        values, keys, items, events = mapping.value, mapping.keys, mapping.items, self._events
        for event in events:
            if type(event) is MappingEndEvent:
                break
            key: str | None
            here: Any
            if type(event) is ScalarEvent and event.tag is None and event.anchor is None and event.value != "<<":
                key, here = event.value, event.start_mark
            else:
                key, here = self._key(event, depth)
            child = next(events)
            if type(child) is not ScalarEvent or child.tag is not None or child.anchor is not None or key is None:
                self._put(mapping, key, here, self._node(child, depth + 1))
            elif key in values:
                self._report_duplicate(mapping, key, here)
            else:  # the hot path: nearly all values of a long manifest
                self._nodes += 1
                values[key] = _resolve(child.value) if child.implicit[0] else child.value
                mark: Any = child.start_mark
                keys[key], items[key] = here, mark
        return self._merged(mapping)

    def _sequence(self, start: Any, depth: int) -> tuple[list[object], Place]:
        values: list[object] = []
        places: list[Place] = []
        for event in self._events:
            if type(event) is SequenceEndEvent:
                break
            value, place = self._node(event, depth + 1)
            values.append(value)
            places.append(place)
        return values, Place(start.start_mark.line + 1, start.start_mark.column + 1, None, places)

    def _key(self, event: Any, depth: int) -> tuple[str | None, Place]:
        """Return the key as text, exactly as written; None for a plain `<<`, which asks for a merge."""
        mark = event.start_mark
        place = Place(mark.line + 1, mark.column + 1)
        if type(event) is ScalarEvent:
            self._check_tag(event, "str")
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchor(event.value, place, 1, 0)
            if event.value == "<<" and event.implicit[0]:
                return None, place
            return event.value, place
        value, _ = self._node(event, depth + 1)
        if isinstance(value, str):
            return value, place
        raise _fatal(event, "expected a key, found a list or a mapping")

    def _put(self, mapping: _Mapping, key: str | None, here: Place | Mark, child: tuple[object, Place]) -> None:
        if key is None:
            mapping.merges.append(child)
        elif key in mapping.value:
            self._report_duplicate(mapping, key, here)
        else:
            mapping.value[key], mapping.items[key] = child
            mapping.keys[key] = here

    def _report_duplicate(self, mapping: _Mapping, key: str, here: Place | Mark) -> None:
        first = place_of(mapping.keys[key])
        self._note(place_of(here), f'duplicate key "{excerpt(key)}"; first used in line {first.line}')

    def _merged(self, mapping: _Mapping) -> tuple[object, Place]:
        """Add the missing keys from the merged mappings; if several of these have a key, the first one wins."""
        for merged, origin in mapping.merges:
            pairs = [(merged, origin)]
            if isinstance(merged, list):
                pairs = [(item, origin.at(i)) for i, item in enumerate(merged)]
            for item, there in pairs:
                if not isinstance(item, dict):
                    self._note(there, "expected a mapping, or a list of mappings, to merge by `<<`")
                    continue
                for key in [key for key in item if key not in mapping.value]:
                    mapping.value[key] = item[key]
                    mapping.keys[key], mapping.items[key] = there.key(key), there.at(key)
        return mapping.value, mapping.place

    def _anchored(self, event: Any, depth: int) -> tuple[object, Place]:
        before, peak = self._nodes, self._peak
        self._peak = depth
        name, event.anchor = event.anchor, None
        self._nodes -= 1
        value, place = self._node(event, depth)
        self._anchors[name] = _Anchor(value, place, self._nodes - before + 1, self._peak - depth)
        self._peak = max(peak, self._peak)
        return value, place

    def _alias(self, event: Any, depth: int) -> tuple[object, Place]:
        target = self._anchors.get(event.anchor)
        if target is None:
            # The name is not quoted: it may be a password that begins with `*`.
            message = "an alias (*) refers to no earlier anchor; put text that begins with * in quotes"
            self._note(_place(event), message)
            return None, _place(event)
        self._nodes += target.weight
        self._expanded += target.weight
        self._expanded_here += target.weight
        if self._expanded_here > _MAX_ALIAS_NODES or self._expanded > _MAX_ALIAS_NODES_TOTAL:
            raise _fatal(event, "aliases expand to more values than a manifest may have")
        self._peak = max(self._peak, depth + target.height)
        if self._peak > _MAX_DEPTH:
            raise _fatal(event, _TOO_DEEP)
        return target.value, target.place

    def _tagged(self, event: Any) -> object:
        tag, text = event.tag, event.value
        if tag is None:
            return _resolve(text) if event.implicit[0] else text
        if tag in _SCALAR_TAGS:
            value = _resolve(text)
            if not isinstance(value, str):
                return value
            self._note(_place(event), f"expected a value of the type !!{tag.removeprefix(_CORE)}, found other text")
            return None
        self._check_tag(event, "str")
        return text

    def _check_tag(self, event: Any, plain: str) -> None:
        tag = event.tag
        if tag is None or tag in {"!", _CORE + plain}:
            return
        # Another tag is not quoted: it may be a password that begins with `!`.
        shown = f"the tag !!{tag.removeprefix(_CORE)[:60]}" if tag.startswith(_CORE) else "a tag (!)"
        self._note(
            _place(event), f"{shown} is not allowed; a manifest is plain data: put text that begins with ! in quotes"
        )


def read_yaml(
    source: Source, *, on_product: Callable[[object, Place], None], note: Callable[[Place, str], None]
) -> tuple[object, Place]:
    """Return the top value and its position; pass each product to `on_product` and each problem to `note`.

    Raise `FatalProblem` if the rest cannot be read.
    """
    reader = _Reader(source, note)
    try:
        return reader.document(on_product)
    except yaml.MarkedYAMLError as error:
        raise _syntax_problem(error, source) from None
    except yaml.YAMLError as error:
        raise FatalProblem(source.line, source.column, f"not YAML: {str(error).splitlines()[0]}") from None


def _resolve(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "0123456789-+.":
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if len(text) <= 40 and _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _fatal(event: Any, message: str) -> FatalProblem:
    return FatalProblem(event.start_mark.line + 1, event.start_mark.column + 1, message)


def _syntax_problem(error: yaml.MarkedYAMLError, source: Source) -> FatalProblem:
    mark = error.problem_mark or error.context_mark
    problem = (error.problem or "it cannot be read").replace("<", "").replace(">", "")
    line, column = (mark.line + 1, mark.column + 1) if mark else (source.line, source.column)
    message = f"not YAML: {problem}"
    if "nesting depth" in problem:
        # libyaml 0.2.6 and newer stop at their own limit, before our check sees the event.
        message = _TOO_DEEP
    elif "cannot start any token" in problem:
        message = "not YAML: a tab, or one of @ ` %, where a value or a key is expected"
        message += "; indent with spaces, and quote text that starts with such a character"
    elif "mapping values are not allowed" in problem:
        message += "; check the indentation, and quote text that contains `: `"
    elif "expected ','" in problem:
        message += "; inside { } or [ ] put ${NAME}, and other text with braces, brackets or commas, in quotes"
    start = error.context_mark
    if (
        error.context
        and start
        and (start.line, start.column) != (mark.line if mark else -1, mark.column if mark else -1)
    ):
        message += f" ({error.context} that starts in line {start.line + 1})"
    return FatalProblem(line, column, message)
