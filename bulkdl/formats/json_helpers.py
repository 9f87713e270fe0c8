"""JSON parsing with typed access: a value of an unexpected type counts as absent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["count", "mapping", "mappings", "parse", "text"]


def parse(source: str, into: Collected) -> Any:
    """Return the document; None, with a problem, if it is not JSON."""
    try:
        return json.loads(source)
    except json.JSONDecodeError as error:
        into.add_problem(f"this is not JSON: {error.msg}", error.lineno)
    except RecursionError:
        into.add_problem("this JSON is nested too deeply")
    return None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def count(value: Any) -> int | None:
    """Return a whole number that is not negative, also one in a string; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
