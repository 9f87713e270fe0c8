"""Whom a run trusts: the system's CA certificates, and those that a person added."""

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

_READ = "set_default_verify_paths"


def trusted_context(settings: Settings, environ: Mapping[str, str]) -> ssl.SSLContext:
    """The context of every connection with TLS. Reading the certificates takes long, and does not hold the interpreter's lock.

    Raise `UsageError` where they cannot be read.
    """
    files = tuple(str(file) for file in (settings.ca_file, environ.get("SSL_CERT_FILE")) if file)
    lane = may_apply(environ.get("BULKDL_FAST_LANE"), limited=bool(settings.limit_rate))
    try:
        context = TlsContext.create() if lane else ssl.create_default_context()
        for file in files:
            context.load_verify_locations(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        reason = "not a PEM file of certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"the CA certificates in {' or '.join(files)} cannot be read ({reason})",
            hint="Check --ca-file and SSL_CERT_FILE",
        ) from error
    return context


@contextmanager
def skip_certificate_loading() -> Iterator[None]:
    """For the import of aiohttp in a process that has no other use for it: no certificates are read on this thread meanwhile.

    aiohttp makes two contexts of its own then, with all of the system's certificates in each, which takes half of its import,
    though every connection of ours is given that of `trusted_context`. Its own ones trust nobody then.
    """
    reader, own = threading.get_ident(), vars(ssl.SSLContext).get(_READ)
    read = ssl.SSLContext.set_default_verify_paths

    def elsewhere(context: ssl.SSLContext) -> None:
        if threading.get_ident() != reader:
            read(context)

    setattr(ssl.SSLContext, _READ, elsewhere)
    try:
        yield
    finally:
        if own is None:
            delattr(ssl.SSLContext, _READ)
        else:
            setattr(ssl.SSLContext, _READ, own)
