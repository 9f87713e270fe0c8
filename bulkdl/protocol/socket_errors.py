"""The words for a failed connection, without addresses, which the messages name themselves. Pure."""

from __future__ import annotations

import errno
import os

__all__ = ["connection_words"]

_WORDS: dict[type[OSError], str] = {
    ConnectionRefusedError: "connection refused",
    ConnectionResetError: "connection reset",
    TimeoutError: "timed out",
}


def connection_words(error: OSError) -> str:
    """Return why no connection could be made.

    The text of `error` itself is not for users: asyncio writes `Connect call failed ('127.0.0.1', 9)`, and for a host
    with several addresses one such sentence for each.
    """
    if error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno).lower()
    for known, words in _WORDS.items():
        if isinstance(error, known):
            return words
    refused = "refused" in str(error).lower() or f"Errno {errno.ECONNREFUSED}" in str(error)
    return "connection refused" if refused else "none of its addresses answers"
