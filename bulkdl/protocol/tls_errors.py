"""Interpret a failed TLS handshake by the words of OpenSSL; one table for products and logins. Pure."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Final

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from bulkdl.protocol.certificate import Certificate

__all__ = ["TlsTrouble", "tls_trouble"]

_PRIVATE_CA: Final = "If you trust it, add its certificate with --ca-file"
_CLOCK: Final = "Check this machine's clock; otherwise only the archive can mend it"
_SERVER: Final = "Only the server's administrator can mend it; until then add the missing certificate with --ca-file"


@dataclass(frozen=True, slots=True)
class TlsTrouble:
    """The cause of a failed handshake."""

    reason: str
    hint: str
    lasting: bool
    """True if another attempt would end in the same way."""


_BY_CODE: Final = {
    9: ("it is not valid yet{dates}", _CLOCK),
    10: ("it has expired{dates}", _CLOCK),
    18: ("it is a self-signed certificate{names}", _PRIVATE_CA),
    19: ("it is signed by a CA that this machine does not trust{issuer}", _PRIVATE_CA),
    20: (
        "the server sends no intermediate certificate for it{issuer}, or this machine does not trust its CA",
        _SERVER,
    ),
    21: ("the server sends no intermediate certificate for it{issuer}", _SERVER),
    23: ("it has been revoked", _SERVER),
    62: ("it is for another host{names}", "Check the host name in the URL"),
    64: ("it is for another address{names}", "Use the host name in the URL, not its address"),
}
"""OpenSSL's codes (`X509_V_ERR_…`)."""

_BY_REASON: Final = (
    (
        r"WRONG_VERSION_NUMBER|HTTP_REQUEST|UNKNOWN_PROTOCOL|PACKET_LENGTH_TOO_LONG|RECORD_LAYER_FAILURE|BAD_RECORD_TYPE",
        "{where} does not answer with TLS: probably it speaks http, not https",
        "Check scheme and port of the URL",
        True,
    ),
    (
        r"UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION|NO_PROTOCOLS_AVAILABLE|INAPPROPRIATE_FALLBACK",
        "{where} offers only versions of TLS that are too old (before TLS 1.2) or that this machine does not know",
        "Only the server's administrator can mend it",
        True,
    ),
    (
        r"CERTIFICATE_REQUIRED|CERTIFICATE_UNKNOWN|BAD_CERTIFICATE",
        "{where} wants a client certificate, which bulkdl cannot send",
        "Ask the archive for another way to log in",
        True,
    ),
    (
        r"UNRECOGNIZED_NAME",
        "{where} has no certificate for the name {host}",
        "Check the host name in the URL",
        True,
    ),
    (
        r"HANDSHAKE_FAILURE|NO_SHARED_CIPHER|DH_KEY_TOO_SMALL|EE_KEY_TOO_SMALL|CA_MD_TOO_WEAK|UNSAFE_LEGACY",
        "{where} and this machine have no secure TLS parameters in common, or it wants a client certificate, which bulkdl cannot send",
        "Only the server's administrator can mend it",
        True,
    ),
)


def tls_trouble(error: BaseException, *, host: str, port: int, certificate: Certificate | None = None) -> TlsTrouble:
    """Return the meaning of `error`; `certificate`: the server's, if it could be read, for dates and names."""
    where = f"{host}:{port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate_trouble(error, where, certificate)
    known = f"{getattr(error, 'reason', None) or ''} {error}"
    for pattern, reason, hint, lasting in _BY_REASON:
        if re.search(pattern, known):
            return TlsTrouble(reason.format(where=where, host=host), hint, lasting)
    name = re.sub(r"[^a-z0-9 ]", " ", str(getattr(error, "reason", None) or "").lower()).strip()
    detail = f" ({name})" if name else ""
    return TlsTrouble(
        f"no TLS connection to {where} could be made{detail}", "Check scheme, host and port", lasting=False
    )


def _certificate_trouble(
    error: ssl.SSLCertVerificationError, where: str, certificate: Certificate | None
) -> TlsTrouble:
    code = getattr(error, "verify_code", 0)
    text, hint = _BY_CODE.get(code, ("{words}", "Check this machine's clock and the host name"))
    names = issuer = dates = ""
    if certificate is not None:
        names = f" (it is for {certificate.shown_names})" if certificate.shown_names else ""
        issuer = f" (issued by {certificate.issuer})" if certificate.issuer else ""
        dates = f" (valid from {certificate.begins:%Y-%m-%d %H:%M} to {certificate.ends:%Y-%m-%d %H:%M} UTC)"
    words = getattr(error, "verify_message", "") or "no cause is given"
    what = text.format(names=names, issuer=issuer, dates=dates, words=words)
    return TlsTrouble(f"the TLS certificate of {where} could not be verified: {what}", hint, lasting=True)
