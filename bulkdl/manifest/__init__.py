"""Reading the manifest: YAML, a list of URLs or plain data, to frozen values; or every problem with its place.

The reader is imported when it is first used, so that `bulkdl.manifest.settings` alone costs no YAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkdl.manifest.loader import from_mapping, load, load_text
    from bulkdl.manifest.schema import schema_text

__all__ = ["from_mapping", "load", "load_text", "schema_text"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bulkdl.manifest import loader  # noqa: PLC0415 - see above

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
