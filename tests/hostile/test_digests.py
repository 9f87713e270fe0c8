"""Flipped bytes under right digest fields, and products that look wrong but have their checksum."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import zipfile

import pytest

from bulkdl.content.hashing import hasher
from bulkdl.core.events import Level, Note
from tests.harness import Place, body_of, sha256
from tests.servers import RawServer, announce, chunked, ranges, reply

SIZES = (1_500, 300_000, 6_000_000)
"""In memory, through the partial, and large enough to be hashed while it arrives."""


def b64(algorithm: str, body: bytes) -> str:
    each = hasher(algorithm)
    each.update(body)
    return base64.b64encode(bytes.fromhex(each.hexdigest())).decode()


FIELDS = {
    "Content-MD5": lambda body: b64("md5", body),
    "Digest": lambda body: f"SHA-256={b64('sha256', body)},unixsum=1",
    "Repr-Digest": lambda body: f"sha-512=:{b64('sha512', body)}:",
    "Content-Digest": lambda body: f"sha-256=:{b64('sha256', body)}:",
    "x-goog-hash": lambda body: f"crc32c=AAAAAA==,md5={b64('md5', body)}",
    "x-amz-checksum-sha1": lambda body: b64("sha1", body),
    "x-amz-checksum-crc32": lambda body: b64("crc32", body),
}


def flipped(body: bytes) -> bytes:
    at = len(body) // 2
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("size", SIZES)
async def test_a_flipped_byte_is_downloaded_again_and_a_right_copy_is_placed(field, size, tmp_path):
    body, place = body_of(size), Place(tmp_path)
    sent = (field, FIELDS[field](body))
    async with RawServer(reply(200, flipped(body), sent), reply(200, body, sent)) as server:
        done = await place.run({"url": f"{server.origin}/a", "file": "a.bin"})
    assert (done.code, place.file("a.bin"), len(server.log)) == (0, body, 2)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("size", SIZES)
async def test_a_byte_that_is_flipped_twice_is_a_failure_that_names_the_field(field, size, tmp_path):
    body, place = body_of(size), Place(tmp_path)
    async with RawServer(reply(200, flipped(body), (field, FIELDS[field](body)))) as server:
        done = await place.run({"url": f"{server.origin}/a", "file": "a.bin"})
    kind, _, reason = done.failure
    assert (done.code, kind, place.names(), len(server.log)) == (1, "checksum", [], 2)
    assert field in reason


@pytest.mark.parametrize("field", ["crc32c", "crc64nvme"])
async def test_a_slow_crc_of_a_small_product_is_checked(field, tmp_path):
    body, place = body_of(1_500), Place(tmp_path)
    sent = (f"x-amz-checksum-{field}", b64(field, body))
    async with RawServer(reply(200, flipped(body), sent), reply(200, body, sent)) as server:
        done = await place.run({"url": f"{server.origin}/a", "file": "a.bin"})
    assert (done.code, place.file("a.bin")) == (0, body)


@pytest.mark.parametrize("framing", [chunked, lambda body, *h: announce(len(body), body, *h)])
async def test_a_wrong_digest_of_another_thing_loses_no_product(framing, tmp_path):
    body, place = body_of(300_000), Place(tmp_path)
    odd = (("Content-MD5", "garbage"), ("x-amz-checksum-sha256", f"{b64('sha256', b'')}-3"), ("Digest", "md5=?"))
    async with RawServer(framing(body, *odd)) as server:
        done = await place.run({"url": f"{server.origin}/a", "file": "a.bin"})
    assert (done.code, place.file("a.bin")) == (0, body)


async def test_a_wrong_digest_beside_a_right_checksum_is_a_note(tmp_path):
    body, place = body_of(300_000), Place(tmp_path)
    async with RawServer(reply(200, body, ("Content-MD5", b64("md5", b"")))) as server:
        done = await place.run(
            {"url": f"{server.origin}/a", "file": "a.bin", "checksum": f"md5:{hashlib.md5(body).hexdigest()}"}
        )
    assert (done.code, place.file("a.bin")) == (0, body)
    assert [note for note in done.of(Note) if note.level is Level.WARNING and "Content-MD5" in note.text]


@pytest.mark.parametrize("validator", ['"1"', '"2"'])
@pytest.mark.parametrize("repeats", [True, False])
async def test_a_digest_survives_a_resume_in_the_next_run(repeats, validator, tmp_path):
    """The first run ends early. The next response has the same validator, or brings another version."""
    body, place = body_of(3_000_000), Place(tmp_path, retries=1)
    sent = ("Repr-Digest", f"sha-256=:{b64('sha256', body)}:")
    cut = announce(len(body), body[:1_000_000], sent, ("ETag", '"1"'), ("Accept-Ranges", "bytes"))
    second = ranges(flipped(body), *((sent,) if repeats else ()), etag=validator)
    runs = 0

    async def respond(request, wire):
        if runs == 0 and len(server.log) > 1:
            wire.reset()
        else:
            await (second if runs else cut)(request, wire)

    async with RawServer(respond) as server:
        product = {"url": f"{server.origin}/a", "file": "a.bin"}
        done = await place.run(product)
        assert (done.code, place.file("a.bin")) == (1, None)
        assert place.entry().digests
        runs = 1
        done = await place.run(product)
    if not repeats and validator == '"2"':
        assert (done.code, place.file("a.bin")) == (0, flipped(body))  # the digest was the other version's
    else:
        assert (done.failure[0], place.names()) == ("checksum", [])


def zip_of(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


PAGE = b"<!DOCTYPE html><html><title>Sign in</title>Please log in</html>"
ODD = {
    "page.zip": PAGE,
    "page.csv": PAGE,
    "page": PAGE,
    "large.zip": PAGE + b" " * 400_000,
    "error.json": b'{"error": "not found"}',
    "cut.zip": zip_of(a="x" * 5000)[:-30],
    "zeros.nc": bytes(70_000),
    "text.tif": b"hello",
    "empty.nc": b"",
    "fault": b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
    "json": b'{"message": "Forbidden"}',
}


@pytest.mark.parametrize("framing", [chunked, lambda body, *h: announce(len(body), body, *h)], ids=["chunked", "plain"])
@pytest.mark.parametrize("name", ODD)
async def test_a_product_that_looks_wrong_is_accepted_by_its_checksum_with_a_note(name, framing, tmp_path):
    body, place = ODD[name], Place(tmp_path)
    async with RawServer(framing(body, ("Content-Type", "text/html"))) as server:
        done = await place.run({"url": f"{server.origin}/a", "file": name, "checksum": sha256(body)})
    assert (done.code, place.file(name), place.names()) == (0, body, [name])
    notes = [note for note in done.of(Note) if note.level is Level.WARNING]
    assert len(notes) == (name != "error.json"), notes


@pytest.mark.parametrize("kept", [False, True], ids=["new", "cut"])
@pytest.mark.parametrize("size", [0, 400_000])
async def test_a_page_in_place_of_a_product_with_a_checksum_is_named_as_a_page(kept, size, tmp_path):
    body, page, place = zip_of(a="x" * 300_000), PAGE + b" " * size, Place(tmp_path)
    cut = announce(len(body), body[:200_000], ("ETag", '"1"'), ("Accept-Ranges", "bytes"))
    login = reply(200, page, ("Content-Type", "text/html"))
    async with RawServer(*((cut, login) if kept else (login,))) as server:
        done = await place.run({"url": f"{server.origin}/a", "file": "a.zip", "checksum": sha256(body)})
    kind, _, reason = done.failure
    assert (kind, place.file("a.zip")) == ("content", None)
    assert "HTML page" in reason
    if kept and not size:
        assert place.part("a.zip") == body[:200_000]


@pytest.mark.parametrize("field", ["Content-MD5", "Digest", "Repr-Digest", "x-goog-hash"])
@pytest.mark.parametrize("of", ["coded", "plain"])
async def test_a_digest_beside_a_coding_that_is_removed_loses_no_product(field, of, tmp_path):
    """The digest is of the coded bytes or of the others; servers differ."""
    body, place = body_of(300_000), Place(tmp_path)
    coded = gzip.compress(body)
    sent = (field, FIELDS[field](coded if of == "coded" else body))
    async with RawServer(reply(200, coded, ("Content-Encoding", "gzip"), sent)) as server:
        done = await place.run({"url": f"{server.origin}/a", "file": "a.bin"})
    assert (done.code, place.file("a.bin")) == (0, body)


async def test_a_digest_beside_a_coding_that_is_kept_is_checked(tmp_path):
    body, place = gzip.compress(body_of(300_000)), Place(tmp_path)
    fields = ("Content-Encoding", "gzip"), ("Content-MD5", b64("md5", body))
    async with RawServer(reply(200, flipped(body), *fields), reply(200, body, *fields)) as server:
        done = await place.run({"url": f"{server.origin}/a.csv.gz", "file": "a.csv.gz"})
    assert (done.code, place.file("a.csv.gz"), len(server.log)) == (0, body, 2)


async def test_the_next_source_is_asked_when_a_mirror_sends_other_bytes_than_its_digest(tmp_path):
    body, place = body_of(300_000), Place(tmp_path)
    sent = ("Content-MD5", b64("md5", body))
    async with RawServer(reply(200, flipped(body), sent)) as bad, RawServer(reply(200, body, sent)) as good:
        product = {"url": f"{bad.origin}/a", "file": "a.bin", "mirrors": [f"{good.origin}/a"]}
        done = await place.run(product)
    assert (done.code, place.file("a.bin")) == (0, body)


@pytest.mark.parametrize("size", SIZES)
async def test_a_range_that_is_ignored_brings_the_digest_of_the_new_whole(size, tmp_path):
    body, other, place = body_of(size), body_of(size, 1), Place(tmp_path)
    first = announce(size, body[: size // 2], ("Content-MD5", b64("md5", body)), ("ETag", '"1"'))
    second = reply(200, other, ("Content-MD5", b64("md5", other)), ("ETag", '"2"'))
    async with RawServer(first, second) as server:
        done = await place.run({"url": f"{server.origin}/a", "file": "a.bin"})
    assert (done.code, place.file("a.bin"), len(server.log)) == (0, other, 2)
