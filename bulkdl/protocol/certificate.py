"""Names and dates of an X.509 certificate (RFC 5280), for messages only: nothing is trusted because of them. Pure.

The `ssl` module gives no details of a certificate that it could not verify, so the few fields are read from its DER.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Certificate", "read_certificate"]

_COMMON_NAME: Final = bytes.fromhex("0603550403")
_ORGANIZATION: Final = bytes.fromhex("060355040a")
_ALT_NAMES: Final = bytes.fromhex("0603551d11")
_MOST_NAMES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Facts about a certificate, for messages."""

    begins: datetime
    ends: datetime
    subject: str
    issuer: str
    names: tuple[str, ...]
    """Host names and addresses that it is for."""

    @property
    def shown_names(self) -> str:
        """The first names, or the subject if there are none."""
        if not self.names:
            return self.subject
        more = len(self.names) - _MOST_NAMES
        return ", ".join(self.names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def read_certificate(der: bytes) -> Certificate | None:
    """Return the fields of a certificate in DER; None if it cannot be read."""
    try:
        return _read(der)
    except (IndexError, ValueError, OverflowError, StopIteration):
        return None


def _read(der: bytes) -> Certificate:
    (_, whole) = next(_elements(der))
    (_, signed) = next(_elements(whole))
    fields = list(_elements(signed))
    if fields[0][0] == 0xA0:  # the version
        del fields[0]
    _, _, issuer, validity, subject, *_ = fields
    begins, ends = (_time(tag, text) for tag, text in _elements(validity[1]))
    names = [name for tag, part in fields if tag == 0xA3 for name in _alt_names(part)]
    return Certificate(begins=begins, ends=ends, subject=_name(subject[1]), issuer=_name(issuer[1]), names=tuple(names))


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each DER element in `data`."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
        if at + length > len(data):
            raise ValueError("a DER element is cut")
        yield tag, data[at : at + length]
        at += length


def _time(tag: int, text: bytes) -> datetime:
    digits = text.decode("ascii")
    if tag == 0x17:  # UTCTime: two digits of the year, 1950 to 2049
        digits = ("19" if int(digits[:2]) >= 50 else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _name(data: bytes) -> str:
    """Return the common name of a distinguished name, else its organization, as printable text."""
    found: dict[bytes, str] = {}
    for _, part in _elements(data):
        for _, pair in _elements(part):
            for known in (_COMMON_NAME, _ORGANIZATION):
                if pair.startswith(known):
                    _, text = next(_elements(pair[len(known) :]))
                    found[known] = _printable(text)
    return found.get(_COMMON_NAME) or found.get(_ORGANIZATION, "")


def _alt_names(data: bytes) -> Iterator[str]:
    for _, extensions in _elements(data):
        for _, extension in _elements(extensions):
            if not extension.startswith(_ALT_NAMES):
                continue
            value = list(_elements(extension))[-1][1]
            for _, names in _elements(value):
                for tag, name in _elements(names):
                    if tag == 0x82:
                        yield _printable(name)
                    elif tag == 0x87:
                        yield str(ipaddress.ip_address(name))


def _printable(text: bytes) -> str:
    shown = text.decode("utf-8", "replace")
    return "".join(c for c in shown if c.isprintable())[:80]
