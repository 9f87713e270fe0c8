"""Remember, across runs, that a login has worked.

If a login that has worked is refused, the account is probably locked for a while or has too many sessions. Then waiting
helps. If it has never worked, the password is probably wrong, and each further attempt brings a lock closer.

The memory is a small file for each login in the state folder, which holds the Unix time of the latest success. Its name has a hash
of the endpoint, the client and the user, and 8 bits that depend on the password: enough to notice that the password has
changed, too little to help anybody guess it.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bulkdl.auth.oidc.login import LoginRequest
    from bulkdl.core.clock import Clock

__all__ = ["LoginMemory"]

_VALID_S = 14 * 86400.0


class LoginMemory:
    """The memory of one login; a folder that cannot be read or written remembers nothing."""

    def __init__(self, folder: Path, login: LoginRequest, *, clock: Clock) -> None:
        self._file = folder / _name(login)
        self._clock = clock

    def has_worked(self) -> bool:
        """Return whether this login worked in the last 14 days."""
        with suppress(OSError, ValueError):  # unreadable, or damaged by a crash
            return abs(self._clock.wall() - float(self._file.read_text(encoding="ascii") or 0)) < _VALID_S
        return False

    def record(self) -> None:
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.write_text(f"{self._clock.wall():.0f}", encoding="ascii")


def _name(login: LoginRequest) -> str:
    password = login.password
    identity = "\n".join((str(login.token_url), login.client.id, password.username if password else ""))
    secret = password.password if password else login.client.secret
    check = hashlib.sha256(f"{identity}\n{secret.reveal() if secret else ''}".encode()).hexdigest()[:2]
    return f"login-{hashlib.sha256(identity.encode()).hexdigest()[:16]}-{check}"
