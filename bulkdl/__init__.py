"""bulkdl: unattended bulk downloads of protected products."""

from __future__ import annotations

from bulkdl._version import __version__

__all__ = ["__version__"]
