"""Conversion of product lists in other formats to a manifest: one module per format, parsing only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bulkdl.formats.collector import Collected

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FORMATS", "Collected", "convert"]

FORMATS = {
    "urls": "url_list",
    "csv": "csv_table",
    "aria2": "aria2",
    "metalink": "metalink",
    "stac": "stac",
    "odata": "odata",
    "sha256sums": "checksum_list",
}
"""Name of a format -> module that reads it."""


def convert(form: str, text: str, *, base_url: str | None = None) -> Collected:
    """Return the products in `text` and all problems found; relative names are resolved against `base_url`."""
    collected = Collected(base_url=base_url)
    read: Callable[[str, Collected], None] = import_module(f"bulkdl.formats.{FORMATS[form]}").read
    read(text, collected)
    return collected
