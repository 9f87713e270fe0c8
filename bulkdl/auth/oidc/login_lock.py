"""Logins of one user take turns on this machine.

A Keycloak that guards against guessing refuses a login that comes while another one of the same user is under way, with
the very words of a wrong password (26.4: `user_temporarily_disabled` in its own log). Two runs that start together would
stop one another that way, so a login holds a lock that all processes of this user share.
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

_LOOK_S = 0.1
_LONGEST_S = 120.0
"""Others may each wait for a one-time code in their turn."""
_APART_S = 0.3
"""The server lets go of a login a moment after it has answered."""


class LoginLock:
    """One login at a time for each (token endpoint, user), over all processes that share `directory`.

    Where the directory cannot be written, or somebody holds a turn for two minutes, the login goes ahead without one.
    """

    def __init__(self, directory: Path, *, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    @asynccontextmanager
    async def turn(self, url: Url, username: str) -> AsyncIterator[None]:
        lock = filelock.FileLock(self._directory / f"login-{_key(url, username)}.lock", mode=0o600, thread_local=False)
        held = await self._take(lock)
        try:
            if held:
                await self._keep_apart(lock.lock_file)
            yield
        finally:
            if held:
                _note_end(lock.lock_file, self._clock.wall())
                lock.release(force=True)

    async def _take(self, lock: filelock.BaseFileLock) -> bool:
        until = self._clock.monotonic() + _LONGEST_S
        while self._clock.monotonic() < until:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock.acquire(blocking=False)
            except filelock.Timeout:  # an OSError too
                await self._clock.sleep(_LOOK_S)
            except (OSError, NotImplementedError):  # not writable; a file system without locks
                return False
            else:
                return True
        return False

    async def _keep_apart(self, path: str) -> None:
        ago = self._clock.wall() - _last_end(path)
        if 0 <= ago < _APART_S:
            await self._clock.sleep(_APART_S - ago)


def _last_end(path: str) -> float:
    """When the last login ended, by the wall clock: the time of the lock file."""
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


def _note_end(path: str, wall: float) -> None:
    with suppress(OSError):
        os.utime(path, (wall, wall))


def _key(url: Url, username: str) -> str:
    return hashlib.sha256(f"bulkdl login turns\0{url.raw}\0{username}".encode()).hexdigest()[:32]
