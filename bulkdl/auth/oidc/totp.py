"""One-time codes (RFC 6238) and the ledger that never sends the same one twice.

Servers take a code once and within one step of their clock, so two processes of one user must not pick the same step,
and a restart must not repeat one. The ledger keeps the steps sent in a small file, named by a hash of the secret.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
from typing import TYPE_CHECKING

import filelock
import pyotp

from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bulkdl.core.clock import Clock

__all__ = ["PERIOD_S", "UsedCodeLedger", "code_at", "normalise"]

PERIOD_S = 30
_LEAST_LEFT_S = 2.0
_KEPT_STEPS = 8
_WINDOW = 2
_KEY_BYTES = 20
_LOCK_TIMEOUT_S = 10.0


def normalise(text: str) -> Secret:
    """A base32 secret as pyotp wants it, whatever spaces, dashes, case and padding people have copied.

    Raise `ValueError`, which does not quote the secret, when it is not base32 (RFC 4648 §6).
    """
    letters = "".join(c for c in text if not c.isspace() and c not in "-=").upper()
    padded = letters + "=" * (-len(letters) % 8)
    try:
        key = base64.b32decode(padded)
    except (binascii.Error, ValueError):
        raise ValueError("the TOTP secret is not base32 (letters A to Z and digits 2 to 7)") from None
    if not key:
        raise ValueError("the TOTP secret is empty")
    return Secret(padded)


def code_at(secret: Secret, step: int) -> Secret:
    """The six digits of a time step, leading zeros kept; `secret` is a normalised one.

    Services still hand out secrets of 80 bits, which pyotp declines to use. HMAC fills a short key up with zero bytes
    (RFC 2104 §2), so a key that comes with them gives the same codes.
    """
    key = base64.b32decode(secret.reveal()).ljust(_KEY_BYTES, b"\0")
    return Secret(pyotp.TOTP(base64.b32encode(key).decode()).generate_otp(step))


class UsedCodeLedger:
    """Hands out codes, each step at most once, to all processes that share `directory`.

    Where the directory cannot be written it still holds within this process, and `warn` says so once.
    """

    def __init__(self, directory: Path, *, clock: Clock, warn: Callable[[str], None]) -> None:
        self._directory = directory
        self._clock = clock
        self._warn = warn
        self._sent: dict[str, list[int]] = {}
        self._in_process_only = False

    async def reserve(
        self, secret: Secret, *, skew: float = 0.0, waiting: Callable[[float], None] | None = None
    ) -> Secret:
        """The code of the earliest step that was never sent and has at least 2 s left, when that step has come.

        `skew`: seconds by which the server's clock is ahead. `waiting` is told the seconds before each wait.
        """
        key = _key(secret)
        while True:
            now = self._clock.wall() + skew
            step = int(now // PERIOD_S)
            left = (step + 1) * PERIOD_S - now
            if left >= _LEAST_LEFT_S and await self._take(key, step):
                return code_at(secret, step)
            if waiting is not None:
                waiting(left)
            await self._clock.sleep(left + 0.05)

    async def _take(self, key: str, step: int) -> bool:
        """Record the step as sent; False when it, or one just after it, was sent before."""
        if not self._in_process_only:
            try:
                return await asyncio.to_thread(self._take_in_file, key, step)
            except OSError as error:
                self._in_process_only = True
                words = error.strerror or "locked by another process"
                self._warn(
                    f"The TOTP ledger in {self._directory} cannot be used ({words}): codes are kept apart within this "
                    "run only, so do not run two at once with one account"
                )
        return self._take_in_memory(key, step)

    def _take_in_memory(self, key: str, step: int) -> bool:
        sent = self._sent.setdefault(key, [])
        if not _free(step, sent):
            return False
        sent[:] = [*sent, step][-_KEPT_STEPS:]
        return True

    def _take_in_file(self, key: str, step: int) -> bool:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"totp-{key}.json"
        with filelock.FileLock(path.with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S, mode=0o600):
            self._sent[key] = _read(path) or self._sent.get(key, [])
            if not self._take_in_memory(key, step):
                return False
            replacement = path.with_suffix(".new")
            replacement.write_text(json.dumps(self._sent[key]), encoding="ascii")
            os.replace(replacement, path)  # noqa: PTH105 - the atomic one, by its usual name
            return True


def _free(step: int, sent: list[int]) -> bool:
    """Steps far ahead were sent by a clock that was wrong since: the server never took them, so they bar nothing."""
    return not any(step <= other <= step + _WINDOW for other in sent)


def _read(path: Path) -> list[int]:
    """Steps sent; a file that is missing or damaged says nothing, and the server's own refusal is the second line."""
    try:
        steps = json.loads(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return []
    return [s for s in steps if type(s) is int][-_KEPT_STEPS:] if isinstance(steps, list) else []


def _key(secret: Secret) -> str:
    """Names the secret without holding it: it has at least 80 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(b"bulkdl totp steps\0" + secret.reveal().encode()).hexdigest()[:32]
