"""bulkdl: unattended, verified bulk downloads of protected products, with logins that are renewed for hours.

`Downloads` runs a manifest as an async context and yields outcomes; `download` waits for the whole run. The types that
they use are exported here, too.
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

_MODULES = {
    "bulkdl.api": ("Downloads", "download"),
    "bulkdl.core.errors": ("BulkdlError", "ManifestError", "Problem", "RunStopped", "UsageError"),
    "bulkdl.manifest.loader": ("from_mapping", "load"),
    "bulkdl.core.models": ("Checksum", "Failure", "FailureKind", "Manifest", "Outcome", "Product", "State"),
    "bulkdl.operations.result": ("AccountUse", "RunResult"),
}


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that `bulkdl --version` need not import an HTTP client."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'bulkdl' has no attribute {name!r}")
