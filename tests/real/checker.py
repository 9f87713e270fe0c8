"""The token checker behind nginx's `auth_request`: `python checker.py REALM=ISSUER...`; it prints its port when ready.

An archive path `/REALM/...` needs a token of that realm: signed (RS256) by a key that the realm publishes, with the
right issuer, not expired. It answers 401 if the token is missing or invalid, 403 if it is of another realm.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import jwt
from aiohttp import web

__all__ = ["Checker"]

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Checker:
    def __init__(self, issuers: dict[str, str]) -> None:
        self._issuers = issuers
        self._keys = {realm: _keys(issuer) for realm, issuer in issuers.items()}

    async def check(self, request: web.Request) -> web.Response:
        """Check the token of the request that nginx describes in `X-Original-URI` and `Authorization`."""
        asked = urlsplit(request.headers.get("X-Original-URI", ""))
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer":
            token = parse_qs(asked.query).get("token", [""])[0]
        realm = asked.path.split("/")[1]
        status, reason = self._verdict(realm, token)
        challenge = {"WWW-Authenticate": f'Bearer realm="{realm}", error="{reason}"'} if status == 401 else {}
        return web.Response(status=status, headers=challenge)

    def _verdict(self, realm: str, token: str) -> tuple[int, str]:
        if realm not in self._issuers:
            return 403, "unknown_realm"
        try:
            key = self._key(realm, jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                theirs = jwt.decode(token, options={"verify_signature": False}).get("iss")
                return (403, "wrong_realm") if theirs in self._issuers.values() else (401, "invalid_token")
            options = {"verify_aud": False, "require": ["exp", "iss"]}
            jwt.decode(token, key, algorithms=["RS256"], issuer=self._issuers[realm], options=options)  # type: ignore[arg-type]
        except jwt.PyJWTError:
            return 401, "invalid_token"
        return 204, ""

    def _key(self, realm: str, id: str) -> jwt.PyJWK | None:  # noqa: A002
        """Return the realm's key. If no realm has it, read the realm's keys again: a restarted server has new ones."""
        if not any(id in keys for keys in self._keys.values()):
            with suppress(OSError):
                self._keys[realm] = _keys(self._issuers[realm])
        return self._keys[realm].get(id)


def _keys(issuer: str) -> dict[str, jwt.PyJWK]:
    with _direct.open(f"{issuer}/protocol/openid-connect/certs", timeout=30) as response:
        published = json.loads(response.read())["keys"]
    return {key["kid"]: jwt.PyJWK(key) for key in published if key.get("use") == "sig"}


async def main() -> None:
    checker = Checker(dict(argument.split("=", 1) for argument in sys.argv[1:]))
    app = web.Application()
    app.router.add_route("*", "/check", checker.check)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
