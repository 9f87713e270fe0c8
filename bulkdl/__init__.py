"""bulkdl: unattended bulk downloads of protected products, verified, with a login that lasts all night.

`Downloads` runs a manifest as an async context and yields outcomes; `download` waits for the whole run. Everything else that
they use is named here too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bulkdl._version import __version__

if TYPE_CHECKING:
    from bulkdl.api import Downloads, download
    from bulkdl.core.errors import BulkdlError, ManifestError, Problem, RunStopped, UsageError
    from bulkdl.core.models import Checksum, Failure, FailureKind, Manifest, Outcome, Product, State
    from bulkdl.manifest.loader import from_mapping, load
    from bulkdl.operations.result import AccountUse, RunResult

__all__ = [
    "AccountUse",
    "BulkdlError",
    "Checksum",
    "Downloads",
    "Failure",
    "FailureKind",
    "Manifest",
    "ManifestError",
    "Outcome",
    "Problem",
    "Product",
    "RunResult",
    "RunStopped",
    "State",
    "UsageError",
    "__version__",
    "download",
    "from_mapping",
    "load",
]

_HOMES = {
    "bulkdl.api": ("Downloads", "download"),
    "bulkdl.core.errors": ("BulkdlError", "ManifestError", "Problem", "RunStopped", "UsageError"),
    "bulkdl.manifest.loader": ("from_mapping", "load"),
    "bulkdl.core.models": ("Checksum", "Failure", "FailureKind", "Manifest", "Outcome", "Product", "State"),
    "bulkdl.operations.result": ("AccountUse", "RunResult"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: `bulkdl --version` must not wait for an HTTP client."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'bulkdl' has no attribute {name!r}")
