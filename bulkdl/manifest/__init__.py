"""Reading the manifest: YAML, a list of URLs or plain data, to frozen values; or every problem with its place."""

from __future__ import annotations

from bulkdl.manifest.loader import from_mapping, load, load_text
from bulkdl.manifest.structure import schema_text

__all__ = ["from_mapping", "load", "load_text", "schema_text"]
