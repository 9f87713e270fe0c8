"""Table of the fields that carry digests, and of what they cover."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from bulkdl.core.models import Checksum
from bulkdl.protocol.digest_fields import digest_fields, sent_digest

BODY = b"The quick brown fox jumps over the lazy dog"


def b64(algorithm: str) -> str:
    raw = zlib.crc32(BODY).to_bytes(4, "big") if algorithm == "crc32" else hashlib.new(algorithm, BODY).digest()
    return base64.b64encode(raw).decode()


MD5, SHA1, SHA256, SHA512, CRC32 = map(b64, ("md5", "sha1", "sha256", "sha512", "crc32"))
CRC32C = "ImIEBA=="
FOUND = {
    "md5": hashlib.md5(BODY, usedforsecurity=False).hexdigest(),
    "sha1": hashlib.sha1(BODY, usedforsecurity=False).hexdigest(),
    "sha256": hashlib.sha256(BODY).hexdigest(),
    "sha512": hashlib.sha512(BODY).hexdigest(),
    "crc32": f"{zlib.crc32(BODY):08x}",
    "crc32c": "22620404",
    "crc64nvme": "00" * 8,
}

WHOLE = [
    ([("Content-MD5", MD5)], "md5"),
    ([("content-md5", f" {MD5} ")], "md5"),
    ([("Digest", f"MD5={MD5}")], "md5"),
    ([("Digest", f"SHA={SHA1}")], "sha1"),
    ([("Digest", f"SHA-256={SHA256}")], "sha256"),
    ([("Digest", f"sha-512={SHA512}")], "sha512"),
    ([("Digest", f"unixsum=30637, SHA-256={SHA256},md5={MD5}")], "sha256"),
    ([("Digest", f"md5={MD5}"), ("Digest", f"sha={SHA1}")], "sha1"),
    ([("Repr-Digest", f"sha-256=:{SHA256}:")], "sha256"),
    ([("Repr-Digest", f"sha-512=:{SHA512}:;x=1, sha-256=:{SHA256}:")], "sha256"),
    ([("Repr-Digest", f"md5=:{MD5}:, sha=:{SHA1}:")], "sha1"),
    ([("Content-Digest", f"sha-512=:{SHA512}:")], "sha512"),
    ([("x-goog-hash", f"crc32c={CRC32C}"), ("x-goog-hash", f"md5={MD5}")], "md5"),
    ([("X-Goog-Hash", f"crc32c={CRC32C},md5={MD5}")], "md5"),
    ([("x-goog-hash", f"crc32c={CRC32C}")], "crc32c"),
    ([("x-goog-hash", f"md5={MD5}"), ("x-goog-stored-content-encoding", "identity")], "md5"),
    ([("x-amz-checksum-sha256", SHA256), ("x-amz-checksum-type", "FULL_OBJECT")], "sha256"),
    ([("x-amz-checksum-sha1", SHA1)], "sha1"),
    ([("x-amz-checksum-crc32", CRC32)], "crc32"),
    ([("x-amz-checksum-crc32c", CRC32C)], "crc32c"),
    ([("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")], "crc64nvme"),
    ([("Content-MD5", MD5), ("Digest", "nonsense")], "md5"),
    ([("Content-MD5", MD5.rstrip("="))], "md5"),
]
IGNORED = [
    [],
    [("Content-MD5", "")],
    [("Content-MD5", "not base64!")],
    [("Content-MD5", FOUND["md5"])],
    [("Content-MD5", SHA256)],
    [("Content-MD5", f"{MD5}, {MD5[::-1]}")],
    [("Content-MD5", MD5), ("Content-MD5", base64.b64encode(bytes(16)).decode())],
    [("Digest", "unixsum=30637, adler32=03da0195, crc32c=xyz")],
    [("Digest", f"SHA-256:{SHA256}")],
    [("Digest", f"sha-256={FOUND['sha256']}")],
    [("Repr-Digest", f"sha-256={SHA256}")],
    [("Repr-Digest", f"sha-256=:{SHA256}")],
    [("Repr-Digest", "sha-256=:???:")],
    [("Repr-Digest", f"sha-257=:{SHA256}:")],
    [("x-goog-hash", f"sha256={SHA256}")],
    [("x-goog-hash", f"md5={MD5}"), ("x-goog-stored-content-encoding", "gzip")],
    [("x-amz-checksum-sha256", SHA256), ("x-amz-checksum-type", "COMPOSITE")],
    [("x-amz-checksum-sha256", f"{SHA256}-12")],
    [("x-amz-checksum-crc32", "AAAA")],
    [("Want-Repr-Digest", "sha-256=10")],
    [("ETag", f'"{FOUND["md5"]}"')],
]
PART = [
    ([("Content-MD5", MD5)], None),
    ([("Content-Digest", f"sha-256=:{SHA256}:")], None),
    ([("x-amz-checksum-sha256", SHA256)], None),
    ([("Digest", f"sha-256={SHA256}")], "sha256"),
    ([("Repr-Digest", f"sha-256=:{SHA256}:")], "sha256"),
    ([("x-goog-hash", f"md5={MD5}")], "md5"),
]


def digest_of(fields, status=200):
    return sent_digest(digest_fields(CIMultiDictProxy(CIMultiDict(fields))), status=status)


@pytest.mark.parametrize(("fields", "algorithm"), WHOLE)
def test_a_digest_of_the_whole_is_found_and_names_its_field(fields, algorithm):
    found = digest_of(fields)
    assert found is not None
    assert found.checksum == Checksum(algorithm, FOUND[algorithm])
    assert found.field.lower() in {name.lower() for name, _ in fields}


@pytest.mark.parametrize("fields", IGNORED)
def test_what_is_malformed_unknown_contradictory_or_not_of_the_bytes_is_ignored(fields):
    assert digest_of(fields) is None


@pytest.mark.parametrize(("fields", "algorithm"), PART)
def test_in_a_partial_response_only_a_digest_of_the_representation_counts(fields, algorithm):
    found = digest_of(fields, status=206)
    assert (found.checksum.algorithm if found else None) == algorithm
