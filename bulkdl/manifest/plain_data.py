"""Convert Python values to the plain data that YAML would have produced."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bulkdl.core.urls import Url
from bulkdl.manifest.source_position import Place

if TYPE_CHECKING:
    from bulkdl.manifest.problems import Findings

__all__ = ["to_plain"]

_MAX_DEPTH = 50


def to_plain(value: object, findings: Findings, label: str = "", depth: int = 0) -> object:
    """Convert mappings to dicts, iterables to lists, and paths and URLs to text; report any other type."""
    if depth > _MAX_DEPTH:
        return _refuse(findings, label, f"values are nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, str):
        text = str(value)
        valid = text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
        return text if valid else _refuse(findings, label, "expected text, found an unpaired surrogate")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Url):
        return value.raw
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        dot = f"{label}." if label else ""
        return {str(key): to_plain(child, findings, f"{dot}{key}", depth + 1) for key, child in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return [to_plain(child, findings, f"{label}[{i}]", depth + 1) for i, child in enumerate(value)]
    return _refuse(findings, label, f"expected plain data, found a value of the type {type(value).__name__}")


def _refuse(findings: Findings, label: str, message: str) -> object:
    findings.add(Place(0, 0, label=label), message)
    return None
