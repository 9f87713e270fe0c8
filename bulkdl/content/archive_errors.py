"""Map the standard library's exceptions for a broken archive to `ProductFailed`."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.parsers import expat

from bulkdl.content.errors import bad_content

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["unreadable"]

_BAD_DATA_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    expat.ExpatError,
    struct.error,
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
)


@contextmanager
def unreadable(what: str, *, hint: str = "") -> Iterator[None]:
    """Map every exception for broken bytes in `what` to `ProductFailed` (content). A disk's `OSError` passes.

    `hint` is for an intact archive that this Python cannot read (encryption, a rare compression method).
    """
    try:
        yield
    except _BAD_DATA_ERRORS as exc:
        raise bad_content(f"{what}: {_error_text(exc)}") from exc
    except RuntimeError as exc:  # includes NotImplementedError
        raise bad_content(f"{what} cannot be read by this Python: {_error_text(exc)}", hint=hint) from exc
    except OSError as exc:
        if exc.errno is not None:
            raise
        raise bad_content(f"{what}: {_error_text(exc)}") from exc  # bz2 and gzip raise it, without errno, for bad data


def _error_text(exc: Exception) -> str:
    return "".join(c for c in str(exc) if c.isprintable())[:160] or type(exc).__name__
