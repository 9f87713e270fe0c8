"""The TLS context of a run: the system's CA certificates, and those that the user added.

Reading the certificates takes long. So a run reads them in a thread while it imports aiohttp, and
`skip_certificate_loading` keeps that import from reading them twice more.
"""

from __future__ import annotations

import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bulkdl.core.errors import UsageError
from bulkdl.http.fast_lane.streams import TlsContext
from bulkdl.http.fast_lane.takeover import may_apply

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bulkdl.core.models import Settings

__all__ = ["skip_certificate_loading", "trusted_context"]

_LOADER_NAME = "set_default_verify_paths"


def trusted_context(settings: Settings, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Return the context for every TLS connection.

    Loading the certificates takes long, but releases the interpreter's lock.

    Raise `UsageError` if they cannot be read.

    """
    files = tuple(str(file) for file in (settings.ca_file, environ.get("SSL_CERT_FILE")) if file)
    lane = may_apply(environ.get("BULKDL_FAST_LANE"), limited=bool(settings.limit_rate))
    try:
        context = TlsContext.create() if lane else ssl.create_default_context()
        for file in files:
            context.load_verify_locations(cafile=file)
    except OSError as error:  # ssl.SSLError is an OSError
        reason = "not a PEM file of certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"the CA certificates in {' or '.join(files)} cannot be read ({reason})",
            hint="Check --ca-file and SSL_CERT_FILE",
        ) from error
    return context


@contextmanager
def skip_certificate_loading() -> Iterator[None]:
    """Let no TLS context that this thread creates load the system's certificates, for as long as the block lasts.

    This is for the import of aiohttp, in a process that uses aiohttp only through bulkdl. During its import aiohttp
    creates two TLS contexts and loads all of the system's certificates into each. No connection uses them, since each
    gets the one of `trusted_context`. Without certificates they trust no server. Other threads load certificates as
    usual. The Python API does not use this, so the importing program's aiohttp stays as it is.
    """
    importer, override = threading.get_ident(), vars(ssl.SSLContext).get(_LOADER_NAME)
    load = ssl.SSLContext.set_default_verify_paths

    def load_elsewhere(context: ssl.SSLContext) -> None:
        if threading.get_ident() != importer:
            load(context)

    setattr(ssl.SSLContext, _LOADER_NAME, load_elsewhere)
    try:
        yield
    finally:
        if override is None:
            delattr(ssl.SSLContext, _LOADER_NAME)
        else:
            setattr(ssl.SSLContext, _LOADER_NAME, override)
