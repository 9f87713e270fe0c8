"""Allow one login of a user at a time on this machine.

If a Keycloak has brute-force protection, it refuses a login while another one of the same user is in progress. Its
answer is the same as for a wrong password (26.4: only its own log says `user_temporarily_disabled`). Two runs that
start together would stop each other, so a login holds a lock file that all processes of this user share. Each run
still has a session of its own.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bulkdl.core.clock import Clock
    from bulkdl.core.urls import Url

__all__ = ["LoginLock"]

_POLL_S = 0.1
"""Seconds between two attempts to take the lock."""
_MAX_WAIT_S = 120.0
"""Seconds after which a login proceeds without the lock; other logins may each wait for a one-time code."""
_MIN_GAP_S = 0.3
"""Seconds between two logins: the server regards a login as in progress a moment longer than its response."""


class LoginLock:
    """A lock for each (token endpoint, user), shared by all processes that use `directory`.

    If the directory is not writable, or another process holds the lock for two minutes, the login proceeds without it.
    """

    def __init__(self, directory: Path, *, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    @asynccontextmanager
    async def hold(self, url: Url, username: str) -> AsyncIterator[None]:
        lock = filelock.FileLock(self._directory / f"login-{_key(url, username)}.lock", mode=0o600, thread_local=False)
        held = await self._acquire(lock)
        try:
            if held:
                await self._wait_for_gap(lock.lock_file)
            yield
        finally:
            if held:
                _record_end(lock.lock_file, self._clock.wall())
                lock.release(force=True)

    async def _acquire(self, lock: filelock.BaseFileLock) -> bool:
        until = self._clock.monotonic() + _MAX_WAIT_S
        while self._clock.monotonic() < until:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock.acquire(blocking=False)
            except filelock.Timeout:  # an OSError too
                await self._clock.sleep(_POLL_S)
            except (OSError, NotImplementedError):  # not writable; a file system without locks
                return False
            else:
                return True
        return False

    async def _wait_for_gap(self, path: str) -> None:
        ago = self._clock.wall() - _last_end(path)
        if 0 <= ago < _MIN_GAP_S:
            await self._clock.sleep(_MIN_GAP_S - ago)


def _last_end(path: str) -> float:
    """Return the wall-clock time at which the last login ended: the mtime of the lock file."""
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


def _record_end(path: str, wall: float) -> None:
    with suppress(OSError):
        os.utime(path, (wall, wall))


def _key(url: Url, username: str) -> str:
    return hashlib.sha256(f"bulkdl login turns\0{url.raw}\0{username}".encode()).hexdigest()[:32]
