"""The seam for broken archives: what the standard library raises over bad bytes becomes a failed product."""

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

_BROKEN = (
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
    """Turn every way in which `what` can be broken into `ProductFailed` (content); an `OSError` of the disk passes.

    `hint` is for what is whole but needs a reader that this Python has not (encryption, a rare compression).
    """
    try:
        yield
    except _BROKEN as exc:
        raise bad_content(f"{what}: {_said(exc)}") from exc
    except RuntimeError as exc:  # NotImplementedError too
        raise bad_content(f"{what} cannot be read here: {_said(exc)}", hint=hint) from exc
    except OSError as exc:
        if exc.errno is not None:
            raise
        raise bad_content(f"{what}: {_said(exc)}") from exc  # bz2 and gzip say so of bad data


def _said(exc: Exception) -> str:
    return "".join(c for c in str(exc) if c.isprintable())[:160] or type(exc).__name__
