"""Both servers as one site: accounts for a manifest, and the counts of the servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .keycloak import Keycloak
    from .nginx import Nginx

__all__ = ["SECRETS", "Site"]

SECRETS = {
    "MAYA_USER": "umlaut",
    "MAYA_PASSWORD": "pÄss wörd+&=%€",
    "NIGHT_USER": "night",
    "NIGHT_PASSWORD": "correct horse 3",
    "TINA_USER": "tina",
    "TINA_PASSWORD": "correct horse 5",
    "OTTO_USER": "otto",
    "OTTO_PASSWORD": "correct horse 4",
    "WRONG_USER": "wrong",
    "WRONG_PASSWORD": "correct horse 2",
    "MACHINE_SECRET": "s3cr:et +%",
}
"""Environment variables that the manifests name as `${...}`; the users are in the realm files."""


@dataclass(frozen=True, slots=True)
class Site:
    """A token server and a protected archive."""

    keycloak: Keycloak
    nginx: Nginx
    root: Path
    """The archive's files."""

    def account(self, name: str, realm: str = "eo", **more: object) -> dict[str, object]:
        """An account with the password grant; its secrets are `${NAME_USER}` and `${NAME_PASSWORD}`."""
        return {
            "auth": "oidc",
            "token_url": self.keycloak.token_url(realm),
            "client_id": "public",
            "username": f"${{{name.upper()}_USER}}",
            "password": f"${{{name.upper()}_PASSWORD}}",
            "hosts": [self.nginx.host],
            **more,
        }

    def service(self) -> dict[str, object]:
        """An account with the client credentials grant."""
        return {
            "auth": "oidc",
            "token_url": self.keycloak.token_url("eo"),
            "client_id": "machine",
            "client_secret": "${MACHINE_SECRET}",
            "grant": "client_credentials",
            "hosts": [self.nginx.host],
        }

    def count(self, kind: str, *, user: str | None = None) -> int:
        """Events of a kind in all realms (or of one user of the realm `eo`)."""
        if user is not None:
            return self.keycloak.events("eo", kind, user=user)
        return sum(self.keycloak.events(realm, kind) for realm in self.keycloak.realms)

    def counts(self) -> dict[str, int]:
        """Return all counts of both servers, which change with any request."""
        kinds = ("LOGIN", "LOGIN_ERROR", "CLIENT_LOGIN", "REFRESH_TOKEN", "REFRESH_TOKEN_ERROR", "LOGOUT")
        return {kind: self.count(kind) for kind in kinds} | {"requests": len(self.nginx.requests())}
