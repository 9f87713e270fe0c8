"""Parse `WWW-Authenticate` (RFC 9110 §11.6.1): a list of challenges, each with a scheme and its parameters."""

from __future__ import annotations

import re

from bulkdl.core.fast_dataclass import dataclass

__all__ = ["Challenge", "parse_challenges"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_ITEM = re.compile(
    rf"""[\s,]*(?:
        ({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))   # a parameter
      | ({_TOKEN})(?:\s+([A-Za-z0-9._~+/-]+=*)(?=\s*(?:,|\Z)))?   # a scheme, and perhaps a token68
      | .                                                     # what is neither
    )""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    """In lower case."""
    parameters: dict[str, str]
    """Names in lower case; quotes removed from values."""


def parse_challenges(text: str) -> list[Challenge]:
    """Return the challenges in their order; skip what is not valid. Several fields are one, joined by a comma."""
    found: list[Challenge] = []
    for item in _ITEM.finditer(text):
        name, quoted, plain, scheme, _ = item.groups()
        if scheme is not None:
            found.append(Challenge(scheme.lower(), {}))
        elif name is not None and found:
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            found[-1].parameters.setdefault(name.lower(), value)
    return found
