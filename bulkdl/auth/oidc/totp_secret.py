"""TOTP secrets as services and password managers show them: base32 text, or an `otpauth://totp/…` URI.

The URI is what a QR code holds (Key Uri Format) and what KeePassXC exports.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import parse_qsl, urlsplit

from bulkdl.core.secret import Secret

__all__ = ["TotpSecret", "normalise"]

_ALGORITHMS = {"SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512"}


class TotpSecret(Secret):
    """The key in base32 as pyotp needs it, and how codes are made from it (RFC 6238)."""

    __slots__ = ("algorithm", "digits", "period")

    def __init__(self, value: str, *, digits: int = 6, period: int = 30, algorithm: str = "sha1") -> None:
        super().__init__(value)
        self.digits = digits
        self.period = period
        """Seconds of one time step."""
        self.algorithm = algorithm
        """Name of the hash in `hashlib`."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TotpSecret) and super().__eq__(other) and self._parameters == other._parameters

    def __hash__(self) -> int:
        return hash((super().__hash__(), self._parameters))

    @property
    def _parameters(self) -> tuple[int, int, str]:
        return self.digits, self.period, self.algorithm


def normalise(text: str) -> TotpSecret:
    """Return the secret. Base32 text may have lower case, spaces, dashes, and no padding.

    Raise `ValueError`, which does not quote the secret, for text of another form.
    """
    stripped = text.strip()
    if stripped.lower().startswith("otpauth:"):
        return _from_uri(stripped)
    return TotpSecret(_base32(stripped))


def _from_uri(text: str) -> TotpSecret:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("the TOTP secret is not a valid otpauth:// URI") from None
    kind = parts.netloc.lower()
    if kind != "totp":
        found = "of kind hotp, which counts uses instead of time" if kind == "hotp" else "of another kind"
        raise ValueError(f"the TOTP secret is an otpauth:// URI {found}; expected otpauth://totp/…")
    values = {name.lower(): value.strip() for name, value in parse_qsl(parts.query, keep_blank_values=True)}
    if not values.get("secret"):
        raise ValueError("the otpauth:// URI of the TOTP secret has no secret=…")
    if values.get("encoder"):
        raise ValueError(
            "the otpauth:// URI of the TOTP secret wants codes that are not digits, which bulkdl cannot make"
        )
    name = values.get("algorithm") or "SHA1"
    algorithm = _ALGORITHMS.get(re.sub(r"^HMAC|-", "", name.upper()))
    if algorithm is None:
        raise ValueError(f"expected SHA1, SHA256 or SHA512 as the algorithm of the TOTP secret, found {_shown(name)}")
    return TotpSecret(
        _base32(values["secret"]),
        digits=_number(values, "digits", 6, low=4, high=10),
        period=_number(values, "period", 30, low=1, high=3600),
        algorithm=algorithm,
    )


def _number(values: dict[str, str], name: str, default: int, *, low: int, high: int) -> int:
    text = values.get(name) or str(default)
    if text.isascii() and text.isdigit() and len(text) <= 6 and low <= int(text) <= high:
        return int(text)
    raise ValueError(f"expected {low} to {high} as {name} of the TOTP secret, found {_shown(text)}")


def _shown(text: str) -> str:
    """Show a short word; something longer may be a part of the secret."""
    return text if re.fullmatch(r"[A-Za-z0-9.-]{1,10}", text) else "something else"


def _base32(text: str) -> str:
    letters = "".join(c for c in text if not c.isspace() and c not in "-=").upper()
    padded = letters + "=" * (-len(letters) % 8)
    try:
        key = base64.b32decode(padded)
    except (binascii.Error, ValueError):
        raise ValueError("the TOTP secret is not base32 (letters A to Z and digits 2 to 7)") from None
    if not key:
        raise ValueError("the TOTP secret is empty")
    return padded
