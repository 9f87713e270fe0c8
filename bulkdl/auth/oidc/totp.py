"""One-time codes (TOTP, RFC 6238) and the ledger that prevents the reuse of a code.

A server accepts each code once, and only within one time step of its clock. So two processes of one user must not use
the same step, and a restarted run must not reuse one. The ledger stores the used steps in a small file, whose name is
a hash of the secret.
"""

from __future__ import annotations

import asyncio
import base64
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

    from bulkdl.auth.oidc.totp_secret import TotpSecret
    from bulkdl.core.clock import Clock

__all__ = ["UsedCodeLedger", "code_at"]

_USUAL_PERIOD_S = 30
_MIN_LEFT_S = 2.0
"""If a step has less than 2 s left, wait for the next one: the code could expire on its way."""
_MAX_STEPS_KEPT = 8
"""Used steps that the ledger stores; older ones cannot be accepted any more."""
_WINDOW = 2
"""Number of later steps whose use also blocks a step."""
_KEY_BYTES = 20
"""Bytes to which a short key is padded."""
_LOCK_TIMEOUT_S = 10.0


def code_at(secret: TotpSecret, step: int) -> Secret:
    """Return the digits of a time step, with leading zeros.

    Some services still issue secrets of 80 bits, which pyotp refuses. HMAC pads a short key with zero bytes
    (RFC 2104 §2), so a key that we pad gives the same codes.
    """
    key = base64.b32encode(base64.b32decode(secret.reveal()).ljust(_KEY_BYTES, b"\0")).decode()
    totp = pyotp.TOTP(key, digits=secret.digits, digest=getattr(hashlib, secret.algorithm), interval=secret.period)
    return Secret(totp.generate_otp(step))


class UsedCodeLedger:
    """Issues the code of each time step at most once, to all processes that share `directory`.

    If the directory is not writable, this works within this process only, and `warn` gets one message.
    """

    def __init__(self, directory: Path, *, clock: Clock, warn: Callable[[str], None]) -> None:
        self._directory = directory
        self._clock = clock
        self._warn = warn
        self._sent: dict[str, list[int]] = {}
        self._in_process_only = False

    async def reserve(
        self, secret: TotpSecret, *, skew: float = 0.0, waiting: Callable[[float], None] | None = None
    ) -> Secret:
        """Return the code of the earliest unused step that has at least 2 s left; wait for that step if necessary.

        `skew`: seconds by which the server's clock is ahead. `waiting` is called with the seconds before each wait.
        """
        key, period = _key(secret), secret.period
        while True:
            now = self._clock.wall() + skew
            step = int(now // period)
            left = (step + 1) * period - now
            if left >= min(_MIN_LEFT_S, period / 2) and await self._record(key, step):
                return code_at(secret, step)
            if waiting is not None:
                waiting(left)
            await self._clock.sleep(left + 0.05)

    async def _record(self, key: str, step: int) -> bool:
        """Record the step as used. Return False if it, or one just after it, was used before."""
        if not self._in_process_only:
            try:
                return await asyncio.to_thread(self._record_in_file, key, step)
            except OSError as error:
                self._in_process_only = True
                words = error.strerror or "locked by another process"
                self._warn(
                    f"The TOTP ledger in {self._directory} cannot be used ({words}): used one-time codes are "
                    "tracked in this run only; do not run two at once with one account"
                )
        return self._record_in_memory(key, step)

    def _record_in_memory(self, key: str, step: int) -> bool:
        sent = self._sent.setdefault(key, [])
        if not _is_unused(step, sent):
            return False
        sent[:] = [*sent, step][-_MAX_STEPS_KEPT:]
        return True

    def _record_in_file(self, key: str, step: int) -> bool:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"totp-{key}.json"
        with filelock.FileLock(path.with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S, mode=0o600):
            self._sent[key] = _read(path) or self._sent.get(key, [])
            if not self._record_in_memory(key, step):
                return False
            replacement = path.with_suffix(".new")
            replacement.write_text(json.dumps(self._sent[key]), encoding="ascii")
            os.replace(replacement, path)  # noqa: PTH105 - `os.replace` is the usual name of the atomic rename
            return True


def _is_unused(step: int, sent: list[int]) -> bool:
    """Tell whether the step may be used. Ignore steps far ahead: a wrong clock sent them, no server took them."""
    return not any(step <= other <= step + _WINDOW for other in sent)


def _read(path: Path) -> list[int]:
    """Return the used steps; none if the file is missing or damaged (the server still refuses a reused code)."""
    try:
        steps = json.loads(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return []
    return [s for s in steps if type(s) is int][-_MAX_STEPS_KEPT:] if isinstance(steps, list) else []


def _key(secret: TotpSecret) -> str:
    """Return a name for the secret. It has at least 80 random bits, so nobody can find it from a plain hash.

    Steps of another length have other numbers, so they have a name of their own. The number of digits and the hash make
    no difference: a server that has seen a step does not take it again.
    """
    steps = "" if secret.period == _USUAL_PERIOD_S else f"\0{secret.period}"
    return hashlib.sha256(b"bulkdl totp steps\0" + secret.reveal().encode() + steps.encode()).hexdigest()[:32]
