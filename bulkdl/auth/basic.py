"""User name and password: Basic (RFC 7617), and Digest (RFC 7616) at an origin that asks for it and not for Basic.

Basic goes out without being asked for, which saves a request. After a server has asked for Digest alone, it never gets
Basic, and another origin of the account gets nothing until it has asked.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from bulkdl.auth.base import Credential
from bulkdl.auth.challenges import parse_challenges
from bulkdl.core.errors import AccountStopped
from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    from bulkdl.auth.credentials import Credentials
    from bulkdl.auth.digest import DigestSession
    from bulkdl.core.models import Account
    from bulkdl.core.urls import Url

__all__ = ["PasswordScheme"]


class PasswordScheme:
    """Makes the credential of each request from an account's user name and password."""

    def __init__(self, account: Account, given: Credentials) -> None:
        """Raise `AccountStopped` for a user name that Basic cannot carry."""
        self._account = account.name
        self._pairs = dict(given.by_host)
        self._other = None if given.only_by_host else (given.username or "", given.password or Secret(""))
        if any(":" in user for user, _ in (*self._pairs.values(), *([self._other] if self._other else []))):
            reason = "the user name for Basic must not contain a colon (RFC 7617 §2)"
            raise AccountStopped(reason, account=account.name)
        pairs = {*self._pairs.values(), *([self._other] if self._other else [])}
        everywhere = not given.only_by_host or set(account.netrc_hosts) <= self._pairs.keys()
        self._only = _basic(*next(iter(pairs))) if len(pairs) == 1 and everywhere else None
        """The header of every request, where all hosts get the same."""
        self._asked_for_basic: set[str] = set()
        """Origins that asked for Basic after another one had asked for Digest."""
        self._sessions: dict[str, DigestSession] = {}
        """Origin -> the newest nonce. Every origin in here asked for Digest."""
        self._of_tasks: WeakKeyDictionary[asyncio.Task[object], dict[str, DigestSession]] = WeakKeyDictionary()
        """The nonces that single workers use: a server may want the numbers of a nonce's uses in their order."""

    def credential(self) -> Credential:
        return Credential(1, header=None if self._sessions else self._only, bind=self._bind)

    def may_answer(self, used: Credential, challenge: str, *, worked: bool) -> bool:
        """Take a 401's challenge; return True if the request should be repeated with an answer to it.

        `worked`: the password was accepted before, so a refusal without `stale` may be one of the nonce. Raise
        `AccountStopped` if the server wants Digest in a form that is not known.
        """
        challenges = parse_challenges(challenge)
        schemes = {c.scheme for c in challenges}
        if not used.origin or not schemes:
            return False
        session = self._session(used.origin)
        if session is None and "basic" in schemes:
            self._asked_for_basic.add(used.origin)
            return used.header is None  # else the password was refused
        if "digest" not in schemes:
            return False
        from bulkdl.auth.digest import DigestSession, strongest, unsupported  # noqa: PLC0415 - few servers ask for it

        new = strongest(challenges)
        if new is None:
            reason = f"the archive asks for HTTP Digest in a form that bulkdl does not know ({unsupported(challenges)})"
            raise AccountStopped(reason, account=self._account, hint="Ask the archive for another way to log in")
        pair = self._pair(used.origin)
        if pair is None:
            return False
        refused_before = session is not None and session.follows_refusal
        if session is not None and not new.stale and (not worked or refused_before):
            return False
        made = DigestSession(new, *pair, follows_refusal=session is not None and not new.stale)
        self._sessions[used.origin] = made
        self._keep(used.origin, made)
        return True

    def accepted(self, used: Credential) -> None:
        """Trust the nonce of an accepted answer: a later refusal without `stale` may be one of its count."""
        if used.origin and self._sessions and (session := self._session(used.origin)) is not None:
            session.follows_refusal = False

    def _bind(self, method: str, url: Url) -> Credential | None:
        """Return the credential of one request; None if its host may have none."""
        pair = self._pair(url.origin)
        if pair is None:
            return None
        session = self._session(url.origin)
        if session is not None:
            self._keep(url.origin, session)
            header: Secret | None = session.authorization(method, url.target)
        elif self._sessions and url.origin not in self._asked_for_basic:
            header = None
        else:
            header = self._only or _basic(*pair)
        return Credential(1, header=header, origin=url.origin)

    def _pair(self, origin: str) -> tuple[str, Secret] | None:
        host = origin.partition("://")[2].rpartition(":")[0].strip("[]")
        return self._pairs.get(host, self._other)

    def _session(self, origin: str) -> DigestSession | None:
        task = asyncio.current_task()
        mine = self._of_tasks.get(task, {}) if task is not None else {}
        return mine.get(origin) or self._sessions.get(origin)

    def _keep(self, origin: str, session: DigestSession) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._of_tasks.setdefault(task, {})[origin] = session


def _basic(user: str, password: Secret) -> Secret:
    return Secret(f"Basic {base64.b64encode(f'{user}:{password.reveal()}'.encode()).decode()}")
