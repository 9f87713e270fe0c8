"""Header fields whose value is a secret: the standard ones, and those in which services take their keys."""

from __future__ import annotations

import re

__all__ = ["carries_secret", "is_credential", "may_carry_secret"]

_NAMES = frozenset({"authorization", "cookie", "cookie2", "proxy-authorization", "token", "x-auth", "x-jfrog-art-api"})
_KEYS = re.compile(
    r"(?:^|[-_])(?:"
    r"(?:[a-z0-9]*api|access|account|application|app|auth|client|consumer|customer|dataverse|functions|license|"
    r"master|rapidapi|secret|service|session|subscription|user)[-_]?key"
    r"|(?:auth|access|api|security|session|private|secret|bearer|id|refresh|job|deploy|user|service|client|account|"
    r"vault|gitlab|github|consul|circle|plex|emby|influxdb|inst)?[-_]?token"
    r"|secret|password|passwd|passphrase|credentials?|authori[sz]ation"
    r")$"
)
"""The end of a name, after a `-` or at its begin: `X-API-Key`, `Ocp-Apim-Subscription-Key`, `PRIVATE-TOKEN`."""
_NO_SECRETS = re.compile(
    r"(?:continuation|next|page|paging|pagination|sync|request|trace|tracking|cancel|delta|resume|upload|client-request"
    r"|csrf|xsrf)[-_]?token$|^sec-|public[-_]"
)
"""Names that end alike and carry no key."""
_LIKELY = re.compile(r"token|secret|password|key|credential|session|signature")
_CREDENTIAL = re.compile(r"\s*(?:basic|bearer|digest|negotiate)\s+\S{6,}", re.IGNORECASE)
_NO_KEYS = re.compile(r"(?:idempotency|surrogate|cache|partition|sort|object|routing|correlation|public)[-_]?key|^sec-")


def carries_secret(name: str) -> bool:
    """Tell whether a field of this name is known to carry a secret."""
    lower = name.strip().lower()
    return lower in _NAMES or (_KEYS.search(lower) is not None and _NO_SECRETS.search(lower) is None)


def may_carry_secret(name: str) -> bool:
    """Tell whether the name looks like that of a secret, without being known as one."""
    lower = name.strip().lower()
    return _LIKELY.search(lower) is not None and _NO_KEYS.search(lower) is None


def is_credential(value: str) -> bool:
    """Tell whether the text of a field is a credential by its scheme, such as `Bearer eyJ…`, whatever the field's name."""
    return _CREDENTIAL.match(value) is not None
