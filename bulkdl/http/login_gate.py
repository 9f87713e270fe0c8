"""One request of an account goes first to an archive whose login is by cookies, and the others wait for it.

Such an archive redirects a request without a session to a login host, gives it a `state` cookie, and compares that one
when the request comes back. Many archives remember only the last state, so parallel logins refuse each other.
"""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["Login", "LoginGate"]

_WAIT_S: Final = 15.0
"""Longest wait for the request that goes first (s); after that the others go as well."""


class Login:
    """A request that may have to log in by cookies."""

    __slots__ = ("was_disturbed",)

    def __init__(self) -> None:
        self.was_disturbed = False
        """Another login was in progress meanwhile, so the archive may have forgotten this one."""


class LoginGate:
    """The requests of one account to one origin: all may go while it is open, else one at a time."""

    def __init__(self, *, is_open: bool, wait_s: float = _WAIT_S) -> None:
        self._wait_s = wait_s
        self.is_open = is_open
        self.signed_in_at = ""
        """Host to which the origin redirects, and which took the account's credential and redirected further."""
        self._is_held = False
        self._changed = asyncio.Event()
        self._in_progress: set[Login] = set()

    async def enter(self) -> bool:
        """Wait for one's turn; return True if this request goes alone, and has to `leave`."""
        try:
            async with asyncio.timeout(self._wait_s):
                while self._is_held and not self.is_open:
                    await self._changed.wait()
        except TimeoutError:
            return False
        if self.is_open:
            return False
        self._is_held = True
        self._changed.clear()
        return True

    def open(self) -> None:
        """Let all requests go: no login follows, or one has succeeded."""
        self.is_open = True
        self._changed.set()

    def close(self) -> None:
        """Let one request go at a time: logins have refused each other."""
        self.is_open = False
        self._changed.clear()

    def leave(self) -> None:
        """End one's turn; unless the gate is open, the next request goes alone."""
        self._is_held = False
        self._changed.set()

    def begin_login(self, login: Login) -> None:
        """Record that the archive has begun a login; it and those in progress may end as the archive's last one or not."""
        for other in self._in_progress - {login}:
            other.was_disturbed = login.was_disturbed = True
        self._in_progress.add(login)

    def end_login(self, login: Login) -> None:
        self._in_progress.discard(login)
