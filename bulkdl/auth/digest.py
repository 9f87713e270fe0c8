"""HTTP Digest (RFC 7616; RFC 2617 for servers without `qop`): answer a server's challenge without sending the password."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bulkdl.auth.challenges import Challenge

__all__ = ["DigestChallenge", "DigestSession", "strongest", "unsupported"]

_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
"""Names in a challenge and in `hashlib`, weakest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestChallenge:
    """One Digest challenge that this module can answer."""

    realm: str
    nonce: str
    algorithm: str | None
    """As the server wrote it, which the answer repeats; None: not named, which means MD5."""
    hash_name: str
    """Name in `hashlib`."""
    session: bool
    """The algorithm ends in `-sess`."""
    qop: str
    """`auth`, `auth-int`, or empty for a server of before RFC 2617."""
    opaque: str | None
    userhash: bool
    stale: bool
    """The server refuses the nonce, not the password."""


def strongest(challenges: Iterable[Challenge]) -> DigestChallenge | None:
    """Return the Digest challenge with the strongest algorithm; of several with the same one, the first."""
    known = [found for c in challenges if c.scheme == "digest" and (found := _read(c)) is not None]
    return max(known, key=lambda c: list(_HASHES.values()).index(c.hash_name), default=None)


def unsupported(challenges: Iterable[Challenge]) -> str:
    """Name what the Digest challenges ask for, if none of them can be answered."""
    return ", ".join(
        f"algorithm {c.parameters.get('algorithm', 'MD5')}, qop {c.parameters.get('qop', 'none')}"
        for c in challenges
        if c.scheme == "digest"
    )


class DigestSession:
    """One nonce of a server and the number of its uses. Used on the event loop only, so each use has its own number."""

    def __init__(
        self,
        challenge: DigestChallenge,
        username: str,
        password: Secret,
        *,
        follows_refusal: bool = False,
        random: Callable[[], str] = lambda: secrets.token_urlsafe(18),
    ) -> None:
        """`follows_refusal`: the server refused an answer without calling its nonce stale."""
        self.challenge = challenge
        self.follows_refusal = follows_refusal
        self._username = username
        self._password = password
        self._cnonce = random()
        self._uses = 0

    def authorization(self, method: str, target: str) -> Secret:
        """Return the value of `Authorization` for a request without a body. `target`: path and query as sent."""
        challenge = self.challenge
        self._uses += 1
        count = f"{self._uses:08x}"
        a1 = self._hash(f"{self._username}:{challenge.realm}:{self._password.reveal()}")
        if challenge.session:
            a1 = self._hash(f"{a1}:{challenge.nonce}:{self._cnonce}")
        a2 = f"{method}:{target}" + (f":{self._hash('')}" if challenge.qop == "auth-int" else "")
        middle = f"{count}:{self._cnonce}:{challenge.qop}:" if challenge.qop else ""
        response = self._hash(f"{a1}:{challenge.nonce}:{middle}{self._hash(a2)}")
        fields = [
            self._user_field(),
            f"realm={_quoted(challenge.realm)}",
            f"nonce={_quoted(challenge.nonce)}",
            f"uri={_quoted(target)}",
            f'response="{response}"',
        ]
        if challenge.algorithm is not None:
            fields.append(f"algorithm={challenge.algorithm}")
        if challenge.qop:
            fields += [f"qop={challenge.qop}", f"nc={count}"]
        if challenge.qop or challenge.session:
            fields.append(f"cnonce={_quoted(self._cnonce)}")
        if challenge.opaque is not None:
            fields.append(f"opaque={_quoted(challenge.opaque)}")
        if challenge.userhash:
            fields.append("userhash=true")
        return Secret("Digest " + ", ".join(fields))

    def _user_field(self) -> str:
        if self.challenge.userhash:
            return f'username="{self._hash(f"{self._username}:{self.challenge.realm}")}"'
        if self._username.isascii():
            return f"username={_quoted(self._username)}"
        return f"username*=UTF-8''{quote(self._username, safe='')}"  # RFC 7616 §3.4.4

    def _hash(self, text: str) -> str:
        return hashlib.new(self.challenge.hash_name, text.encode(), usedforsecurity=False).hexdigest()


def _read(challenge: Challenge) -> DigestChallenge | None:
    """Return the challenge, or None if it lacks a nonce or asks for what is not known here."""
    values = challenge.parameters
    algorithm = values.get("algorithm")
    name = (algorithm or "MD5").upper()
    plain = name.removesuffix("-SESS")
    qops = [qop.strip().lower() for qop in values.get("qop", "").split(",") if qop.strip()]
    qop = next((known for known in ("auth", "auth-int") if known in qops), "")
    hash_name = _HASHES.get(plain, "")
    if not values.get("nonce") or hash_name not in hashlib.algorithms_available or (qops and not qop):
        return None
    return DigestChallenge(
        realm=values.get("realm", ""),
        nonce=values["nonce"],
        algorithm=algorithm,
        hash_name=hash_name,
        session=plain != name,
        qop=qop,
        opaque=values.get("opaque"),
        userhash=values.get("userhash", "").lower() == "true",
        stale=values.get("stale", "").lower() == "true",
    )


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
