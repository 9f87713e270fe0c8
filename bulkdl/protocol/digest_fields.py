"""Digests that a server sends of a product's bytes. Pure.

Fields: `Repr-Digest` and `Content-Digest` (RFC 9530), `Digest` (RFC 3230), `Content-MD5` (RFC 1864), `x-goog-hash` and
`x-amz-checksum-*`. Only a digest of the whole representation counts. A field that is malformed, that names an unknown
algorithm, or that belongs to a part of the product is ignored: a wrong refusal loses a product.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from bulkdl.core.models import Checksum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from multidict import CIMultiDictProxy

__all__ = ["SentDigest", "digest_fields", "sent_digest"]


class SentDigest(NamedTuple):
    """A digest of the whole representation, and the field that brought it."""

    checksum: Checksum
    field: str


_LENGTHS: Final[Mapping[str, int]] = {
    "sha256": 32,
    "sha512": 64,
    "sha1": 20,
    "md5": 16,
    "crc32": 4,
    "crc32c": 4,
    "crc64nvme": 8,
}
"""Bytes of a digest by algorithm. The first algorithm that a server sends is checked: a hash proves more than a CRC."""
_RFC_NAMES: Final = {"md5": "md5", "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
"""Algorithms of RFC 3230 and RFC 9530, in lower case. Others (`adler`, `unixsum`) are too weak or ambiguous."""
_AMZ: Final = {f"x-amz-checksum-{name}": name for name in ("sha256", "sha1", "crc32", "crc32c", "crc64nvme")}
_FIELDS: Final = ("Content-MD5", "Digest", "Repr-Digest", "Content-Digest", "x-goog-hash", *_AMZ)
_QUALIFIERS: Final = ("x-amz-checksum-type", "x-goog-stored-content-encoding")
_STRUCTURED_MEMBER: Final = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):(?:;.*)?")
"""A member of a structured dictionary (RFC 8941 §3.2) whose value is a byte sequence."""


def digest_fields(fields: CIMultiDictProxy[str]) -> tuple[tuple[str, str], ...]:
    """Return the fields of a head that carry digests, or that tell what the digests cover; most heads have none."""
    names = [name for name in _FIELDS if name in fields]
    if not names:
        return ()
    names += [name for name in _QUALIFIERS if name in fields]
    return tuple((name.lower(), value) for name in names for value in fields.getall(name))


def sent_digest(fields: tuple[tuple[str, str], ...], *, status: int) -> SentDigest | None:
    """Return the digest of the product's bytes that proves most; None if the fields (see `digest_fields`) have none.

    Do not call it for a body whose content coding is removed: the fields digest the coded bytes, or do not say which.
    """
    if not fields:
        return None
    found: dict[str, dict[str, str]] = {}
    for field, algorithm, digest in _digests(fields, is_whole=status == 200):
        found.setdefault(algorithm, {}).setdefault(digest, field)
    for algorithm in _LENGTHS:
        # Two fields that contradict each other prove nothing.
        if len(digests := found.get(algorithm, {})) == 1:
            digest, field = next(iter(digests.items()))
            return SentDigest(Checksum(algorithm, digest), _DISPLAY.get(field, field))
    return None


_DISPLAY: Final = {name.lower(): name for name in _FIELDS}


def _digests(fields: Iterable[tuple[str, str]], *, is_whole: bool) -> Iterator[tuple[str, str, str]]:
    """Yield field, algorithm and hex of each digest of the whole; `is_whole`: the message has the whole, no range."""
    qualifiers = {field: value.strip().lower() for field, value in fields}
    for field, value in fields:
        for algorithm, text in _members(field, value, qualifiers, is_whole=is_whole):
            if digest := _hex(text, _LENGTHS[algorithm]):
                yield field, algorithm, digest


def _members(field: str, value: str, qualifiers: Mapping[str, str], *, is_whole: bool) -> Iterable[tuple[str, str]]:
    """Return algorithm and base64 text of each digest in a field."""
    match field:
        case "digest":  # of the instance, so of the whole also in a 206 (RFC 3230 §4.3.2)
            return _pairs(value, _RFC_NAMES)
        case "repr-digest":
            return _structured(value)
        case "content-digest":  # of the message's content, which is a part in a 206 (RFC 9530 §2)
            return _structured(value) if is_whole else ()
        case "content-md5":  # the same (RFC 1864); S3 and Azure send the part's own in a 206
            return (("md5", value),) if is_whole else ()
        case "x-goog-hash":
            # The hash is that of the stored object. If Google decompresses it on the way, the bytes are others.
            stored = qualifiers.get("x-goog-stored-content-encoding", "identity")
            return _pairs(value, {"md5": "md5", "crc32c": "crc32c"}) if stored in ("identity", "") else ()
        case _ if field in _AMZ:
            # A composite checksum is one of the parts' checksums, not of the bytes; its value ends in "-N".
            # In answer to a range S3 may send the checksum of one part.
            composite = qualifiers.get("x-amz-checksum-type") == "composite"
            return ((_AMZ[field], value),) if is_whole and not composite else ()
    return ()


def _pairs(value: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the members of a list `algorithm=base64, …`; names in any case."""
    for member in value.split(","):
        name, equals, text = member.strip().partition("=")
        algorithm = names.get(name.strip().lower())
        if equals and algorithm is not None:
            yield algorithm, text.strip().strip('"')


def _structured(value: str) -> Iterator[tuple[str, str]]:
    for member in value.split(","):
        found = _STRUCTURED_MEMBER.fullmatch(member.strip())
        algorithm = _RFC_NAMES.get(found.group(1)) if found is not None else None
        if found is not None and algorithm is not None:
            yield algorithm, found.group(2)


def _hex(text: str, length: int) -> str:
    """Return the hex of a base64 digest of `length` bytes; an empty string if it is not one."""
    try:
        raw = base64.b64decode(text.strip() + "=" * (-len(text.strip()) % 4), validate=True)
    except (binascii.Error, ValueError):
        return ""
    return raw.hex() if len(raw) == length else ""
