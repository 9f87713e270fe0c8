"""Verification of a file on disk: real files and archives, truncated and with flipped bits."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import hashlib
import io
import lzma
import random
import tarfile
import tempfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkdl.content.hashing import Digests, file_id
from bulkdl.content.verify import Verified, check_product, digests
from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import Checksum, FailureKind, Product, Verify
from bulkdl.core.urls import Url
from tests.effort import effort

MIB = 1024 * 1024


def product(**known) -> Product:
    return Product(index=0, url=Url("http://archive.example.org/p"), **known)


def deep(**known) -> Product:
    return product(verify=Verify.DEEP, **known)


def zip_of(members: dict[str, bytes], *, method=zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.comment = comment
    return held.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return held.getvalue()


def safe_of(files: dict[str, bytes], listed: list[tuple[str, str, str]], *, manifest: str = "manifest.safe") -> bytes:
    """Return a SAFE zip whose manifest lists `listed`: (href, checksum name, digest)."""
    objects = "".join(
        f'<dataObject ID="d{n}"><byteStream mimeType="x" size="1"><fileLocation locatorType="URL" href="{href}"/>'
        f'<checksum checksumName="{name}">{digest}</checksum></byteStream></dataObject>'
        for n, (href, name, digest) in enumerate(listed)
    )
    text = f'<?xml version="1.0"?><x:XFDU xmlns:x="urn:ccsds:schema:xfdu:1">{objects}</x:XFDU>'
    return zip_of({f"S.SAFE/{manifest}": text.encode(), **{f"S.SAFE/{k}": v for k, v in files.items()}})


async def refusal(path: Path, what: Product, *, name: str, content_type: str = "") -> ProductFailed:
    with pytest.raises(ProductFailed) as caught:
        await check_product(path, what, name=name, content_type=content_type)
    assert name in caught.value.reason
    return caught.value


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "product.part"
    path.write_bytes(data)
    return path


# --- digests


@given(
    size=st.one_of(st.integers(0, 3000), st.sampled_from([n * MIB + d for n in (1, 2) for d in (-1, 0, 1)])),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=effort(10, 50), deadline=None)
def test_digests_equal_those_of_hashlib_around_the_borders_of_blocks(size, seed):
    data = random.Random(seed).randbytes(size)
    with tempfile.TemporaryDirectory() as folder:
        path = saved(Path(folder), data)
        found = asyncio.run(digests(path, ["md5", "sha1", "sha256", "sha512", "blake3"]))
    expected = {name: hashlib.new(name, data).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")}
    assert found == expected | {"blake3": blake3(data).hexdigest()}


async def test_digests_report_every_byte_once_whatever_the_number_of_algorithms(tmp_path):
    seen: list[int] = []
    await digests(saved(tmp_path, bytes(3 * MIB + 5)), ["md5", "blake3"], progress=seen.append)
    assert sum(seen) == 3 * MIB + 5
    assert max(seen) <= MIB


async def test_an_unknown_algorithm_is_an_error_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="crc99"):
        await digests(tmp_path / "missing", ["crc99"])


async def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        await digests(tmp_path / "missing", ["md5"])
    with pytest.raises(FileNotFoundError):
        await check_product(tmp_path / "missing", product(), name="missing")


async def test_a_cancelled_digest_reads_no_further_block(tmp_path):
    """When the await ends, the thread has ended too, so the caller may remove the file."""
    path = saved(tmp_path, b"")
    with path.open("r+b") as file:
        file.truncate(64 * 1024 * MIB)
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    blocks: list[int] = []

    def progress(count: int) -> None:
        blocks.append(count)
        loop.call_soon_threadsafe(begun.set)

    task = asyncio.create_task(digests(path, ["md5"], progress=progress))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = len(blocks)
    await digests(saved(tmp_path, bytes(MIB)), ["md5"])
    assert len(blocks) == after
    assert after < 64 * 1024


async def test_a_digest_that_waits_for_a_thread_is_cancelled_without_one(tmp_path):
    path = saved(tmp_path, b"x")
    held, release = threading.Semaphore(0), threading.Event()

    def hold(_count: int) -> None:
        held.release()
        release.wait(30)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):  # the maximum number of threads
                group.create_task(digests(path, ["md5"], progress=hold))
            waiting = group.create_task(digests(path, ["md5"], progress=hold))
            await asyncio.to_thread(held.acquire)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            release.set()
    finally:
        release.set()


# --- size, first bytes and checksums


async def test_a_right_product_returns_the_checksums_it_was_verified_against(tmp_path):
    data = zip_of({"a": b"hello"})
    sums = (Checksum("md5", hashlib.md5(data).hexdigest()), Checksum("blake3", blake3(data).hexdigest()))
    path = saved(tmp_path, data)
    for what in (product(size=len(data), checksums=sums), deep(size=len(data), checksums=sums)):
        assert await check_product(path, what, name="a.zip") == Verified(digests=sums)
    assert await check_product(path, product(), name="a.zip") == Verified()


async def test_a_wrong_size_is_named_with_both_sizes(tmp_path):
    error = await refusal(saved(tmp_path, b"12345"), product(size=7), name="a.bin")
    assert error.kind is FailureKind.SIZE
    assert "5 bytes" in error.reason
    assert "but 7 were expected" in error.reason


async def test_one_wrong_checksum_among_right_ones_is_named_with_expected_and_found(tmp_path):
    data = b"12345"
    right, wrong = Checksum("md5", hashlib.md5(data).hexdigest()), Checksum("sha256", "0" * 64)
    error = await refusal(saved(tmp_path, data), product(checksums=(right, wrong)), name="a.bin")
    assert error.kind is FailureKind.CHECKSUM
    assert str(wrong) in error.reason
    assert hashlib.sha256(data).hexdigest() in error.reason
    assert "md5" not in error.reason


async def test_a_checksum_in_capitals_matches(tmp_path):
    digest = Checksum("md5", hashlib.md5(b"x").hexdigest().upper())
    assert await check_product(saved(tmp_path, b"x"), product(checksums=(digest,)), name="a.bin") == Verified(
        digests=(digest,)
    )


# --- digests known from the download


async def test_a_file_with_known_digests_is_not_read_again(tmp_path):
    path, seen = saved(tmp_path, b"12345"), list[int]()
    sums = tuple(Checksum(name, hashlib.new(name, b"12345").hexdigest().upper()) for name in ("md5", "sha1"))
    for names, read in ((("md5", "sha1"), 0), (("md5",), 5), ((), 5)):
        known = known_of(path, **{name: hashlib.new(name, b"12345").hexdigest() for name in names})
        assert await check_product(
            path, product(checksums=sums), name="a", known=known, progress=seen.append
        ) == Verified(digests=sums)
        assert sum(seen) == read
        seen.clear()


async def test_digests_of_another_file_or_size_are_ignored(tmp_path):
    right, wrong = hashlib.md5(b"12345").hexdigest(), saved(tmp_path, b"54321")
    other = tmp_path / "other"
    other.write_bytes(b"12345")
    longer = known_of(wrong, md5=right)
    what = product(checksums=(Checksum("md5", right),))
    for known in (known_of(other, md5=right), replace(longer, size=4)):
        with pytest.raises(ProductFailed, match="does not match its checksum"):
            await check_product(wrong, what, name="a.bin", known=known)


async def test_a_wrong_known_digest_alone_refuses_no_product(tmp_path):
    path = saved(tmp_path, b"12345")
    sums = (Checksum("md5", hashlib.md5(b"12345").hexdigest()),)
    known = known_of(path, md5="0" * 32)
    assert await check_product(path, product(checksums=sums), name="a.bin", known=known) == Verified(digests=sums)


def known_of(path: Path, **found: str) -> Digests:
    return Digests(file=file_id(path.stat()), size=path.stat().st_size, found=found)


async def test_a_login_page_of_the_wrong_size_is_reported_as_a_page(tmp_path):
    page = saved(tmp_path, b"<html><title>Sign in</title>")
    error = await refusal(page, product(size=10_000), name="a.zip", content_type="text/html")
    assert error.kind is FailureKind.CONTENT
    assert "Sign in" in error.reason


async def test_a_page_that_was_asked_for_is_a_product(tmp_path):
    page = saved(tmp_path, b"<html><title>Sign in</title>")
    asked_for = product(headers=(("accept", "text/html"),))
    assert await check_product(page, asked_for, name="page", content_type="text/html") == Verified()


async def test_an_empty_zip_is_accepted_only_if_the_manifest_says_so(tmp_path):
    path = saved(tmp_path, b"")
    assert (await refusal(path, product(), name="a.zip")).kind is FailureKind.CONTENT
    assert (await refusal(path, product(size=10), name="a.zip")).kind is FailureKind.SIZE
    assert await check_product(path, deep(size=0), name="a.zip") == Verified()
    assert await check_product(path, product(), name="a.bin") == Verified()


# --- zip

members = st.dictionaries(st.text("abc/.ä", min_size=1, max_size=8), st.binary(max_size=300), min_size=1, max_size=4)
methods = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])


@given(members, methods, st.binary(max_size=30).map(lambda b: b.replace(b"P", b"p")), st.data())
@settings(max_examples=effort(20, 120), deadline=None)
def test_a_complete_zip_passes_and_a_truncated_one_fails(contents, method, comment, data):
    """Use comments without `P`: zipfile mistakes an end record's signature in a comment for the end record."""
    whole = zip_of(contents, method=method, comment=comment)
    cut = data.draw(st.integers(1, len(whole) - 1))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check_product(saved(Path(folder), whole), deep(), name="a.zip"))
        error = asyncio.run(refusal(saved(Path(folder), whole[:cut]), product(), name="a.zip"))
    assert error.kind is FailureKind.CONTENT


@given(members, methods, st.data())
@settings(max_examples=effort(20, 120), deadline=None)
def test_a_flipped_byte_in_a_zip_member_fails_deep_unless_the_contents_are_the_same(contents, method, data):
    """Deflate has unused bits after its end; in stored members every bit counts."""
    whole = bytearray(zip_of(contents, method=method))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        infos = [info for info in archive.infolist() if info.compress_size and not info.is_dir()]
    if not infos:
        return
    info = data.draw(st.sampled_from(infos))
    start = info.header_offset + 30 + len(info.filename.encode())
    whole[start + data.draw(st.integers(0, info.compress_size - 1))] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = saved(Path(folder), bytes(whole))
        asyncio.run(check_product(path, product(), name="a.zip"))
        try:
            asyncio.run(check_product(path, deep(), name="a.zip"))
        except ProductFailed:
            return
    assert method != zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.read(info) == contents[info.orig_filename]


@given(members, st.data())
@settings(max_examples=effort(20, 120), deadline=None)
def test_a_zip_damaged_anywhere_passes_or_fails_as_a_product_and_never_otherwise(contents, data):
    whole = bytearray(zip_of(contents))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(check_product(saved(Path(folder), bytes(whole)), deep(), name="a.zip"))
        except ProductFailed as error:
            assert error.kind is FailureKind.CONTENT  # noqa: PT017


async def test_a_zip_truncated_after_a_stored_inner_zip_does_not_pass_as_the_inner_one(tmp_path):
    inner = zip_of({"inner.txt": b"inner"})
    whole = zip_of({"inner.zip": inner, "more": b"x" * 100}, method=zipfile.ZIP_STORED)
    cut = whole[: whole.index(inner) + len(inner)]
    assert zipfile.ZipFile(io.BytesIO(cut)).namelist() == ["inner.txt"]  # as other programs read it
    error = await refusal(saved(tmp_path, cut), product(), name="a.zip")
    assert "an archive inside it" in error.reason


async def test_a_zip64_archive_passes_and_fails_cut(tmp_path, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(zipfile, "ZIP64_LIMIT", 10)  # writes a small archive in the format of a large one
        data = zip_of({"a": b"hello" * 10, "b": b"x" * 30})
    assert b"PK\x06\x06" in data
    assert b"PK\x06\x07" in data
    assert await check_product(saved(tmp_path, data), deep(), name="a.zip") == Verified()
    for missing in (1, 30, 60):
        await refusal(saved(tmp_path, data[:-missing]), product(), name="a.zip")
    await refusal(saved(tmp_path, data[:40] + data[41:]), product(), name="a.zip")


async def test_a_streamed_zip_passes(tmp_path):
    """Sizes and CRCs follow each member, because the sender could not seek back."""

    class Pipe(io.RawIOBase):
        sent = b""

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.sent += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"hello" * 100)
        archive.writestr("b", b"there" * 100)
    assert b"PK\x07\x08" in pipe.sent
    assert await check_product(saved(tmp_path, pipe.sent), deep(), name="a.zip") == Verified()


async def test_members_that_overlap_are_refused(tmp_path):
    """Two directory entries share one body, as in a zip bomb."""
    data = bytearray(zip_of({"a": b"x" * 50, "b": b"x" * 50}, method=zipfile.ZIP_STORED))
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = bytes(4)
    error = await refusal(saved(tmp_path, bytes(data)), product(), name="a.zip")
    assert "overlaps" in error.reason


async def test_an_encrypted_member_passes_basic_and_is_named_by_deep(tmp_path):
    data = bytearray(zip_of({"a": b"x" * 50}, method=zipfile.ZIP_STORED))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path = saved(tmp_path, bytes(data))
    await check_product(path, product(), name="a.zip")
    assert "encrypted" in (await refusal(path, deep(), name="a.zip")).reason


async def test_a_compression_that_this_python_cannot_read_says_what_to_do(tmp_path):
    data = bytearray(zip_of({"a": b"x" * 50}, method=zipfile.ZIP_STORED))
    data[8] = 9
    data[data.index(b"PK\x01\x02") + 10] = 9
    error = await refusal(saved(tmp_path, bytes(data)), deep(), name="a.zip")
    assert "verify: basic" in error.hint


# --- SAFE

FILES = {"measurement/b1.tif": b"II*\0 one", "annotation/a b.xml": b"<a/>"}
ONE = hashlib.md5(FILES["measurement/b1.tif"]).hexdigest()


@pytest.mark.parametrize(
    ("href", "name", "digest"),
    [
        ("./measurement/b1.tif", "MD5", ONE),
        ("measurement/b1.tif", "md5", ONE.upper()),
        ("./measurement/b1.tif", "SHA-1", hashlib.sha1(FILES["measurement/b1.tif"]).hexdigest()),
        ("./measurement/b1.tif", "SHA256", hashlib.sha256(FILES["measurement/b1.tif"]).hexdigest()),
        ("./measurement/b1.tif", "SHA3-256", "\n" + hashlib.sha3_256(FILES["measurement/b1.tif"]).hexdigest() + " "),
        ("annotation/a%20b.xml", "MD5", hashlib.md5(b"<a/>").hexdigest()),
        ("./measurement/b1.tif", "CRC32", "0"),
        ("https://elsewhere.example.org/x", "MD5", "0"),
    ],
)
@pytest.mark.parametrize("manifest", ["manifest.safe", "xfdumanifest.xml"])
async def test_a_safe_product_passes_by_its_own_checksums(tmp_path, href, name, digest, manifest):
    path = saved(tmp_path, safe_of(FILES, [(href, name, digest)], manifest=manifest))
    assert await check_product(path, deep(), name="S.SAFE.zip") == Verified()


async def test_a_safe_product_that_does_not_match_its_own_checksum_names_the_file(tmp_path):
    path = saved(tmp_path, safe_of(FILES, [("./measurement/b1.tif", "MD5", "0" * 32)]))
    error = await refusal(path, deep(), name="S.SAFE.zip")
    assert error.kind is FailureKind.CHECKSUM
    assert "S.SAFE/measurement/b1.tif" in error.reason
    assert ONE in error.reason
    assert await check_product(path, product(), name="S.SAFE.zip") == Verified()


@pytest.mark.parametrize("href", ["./measurement/b2.tif", "../../etc/passwd"])
async def test_a_file_that_a_safe_manifest_lists_but_the_archive_lacks_is_named(tmp_path, href):
    path = saved(tmp_path, safe_of(FILES, [(href, "MD5", ONE)]))
    error = await refusal(path, deep(), name="S.SAFE.zip")
    assert error.kind is FailureKind.CONTENT
    assert href.rpartition("/")[2] in error.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', "document type"),
        (b"<x>", "no element found"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "document type"),
    ],
)
async def test_a_safe_manifest_that_is_no_plain_xml_is_refused(tmp_path, text, said):
    path = saved(tmp_path, zip_of({"S.SAFE/manifest.safe": text}))
    assert said in (await refusal(path, deep(), name="S.SAFE.zip")).reason


async def test_a_safe_manifest_of_absurd_size_is_not_read(tmp_path):
    path = saved(tmp_path, zip_of({"manifest.safe": bytes(17 * MIB)}))
    assert "too large" in (await refusal(path, deep(), name="S.SAFE.zip")).reason


# --- gzip, tar and the like

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("inner", [".tar", ".nc"])
async def test_a_complete_compressed_file_passes_deep_and_a_damaged_one_fails(tmp_path, suffix, inner):
    body = random.Random(1).randbytes(50_000)
    data = PACKERS[suffix](tar_of({"a": body, "b": body}) if inner == ".tar" else body)
    name = f"a{inner}{suffix}"
    assert await check_product(saved(tmp_path, data), deep(), name=name) == Verified()
    for cut in (len(data) - 1, len(data) // 2):
        path = saved(tmp_path, data[:cut])
        assert await check_product(path, product(), name=name) == Verified()
        assert (await refusal(path, deep(), name=name)).kind is FailureKind.CONTENT
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF
    assert (await refusal(saved(tmp_path, bytes(flipped)), deep(), name=name)).kind is FailureKind.CONTENT


@given(st.data())
@settings(max_examples=effort(15, 80), deadline=None)
def test_a_complete_tar_passes_and_a_truncated_one_fails(data):
    whole = tar_of({"a": b"x" * 700, "ä" * 80: b"y" * 512, "c": b""})
    cut = data.draw(st.integers(1, len(whole.rstrip(b"\0"))))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check_product(saved(Path(folder), whole), deep(), name="a.tar"))
        error = asyncio.run(refusal(saved(Path(folder), whole[:cut]), deep(), name="a.tar"))
    assert error.kind is FailureKind.CONTENT


async def test_a_damaged_header_in_the_middle_of_a_tar_is_an_error(tmp_path):
    data = bytearray(tar_of({"a": b"x" * 512, "b": b"y" * 512}))
    data[1024 + 10] ^= 0xFF
    assert "header is damaged" in (await refusal(saved(tmp_path, bytes(data)), deep(), name="a.tar")).reason


async def test_a_tar_header_that_would_fill_memory_is_refused(tmp_path):
    header = tarfile.TarInfo("./PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 8 * 1024 * MIB
    path = saved(tmp_path, header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    assert "invalid size" in (await refusal(path, deep(), name="a.tar")).reason


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zip_of({"a": bytes(3 * MIB), "b": b"x"}, method=zipfile.ZIP_STORED)),
        ("a.zip", zip_of({"a": random.Random(2).randbytes(100_000)})),
        ("a.tar", tar_of({"a": bytes(MIB)})),
        ("a.tar.gz", gzip.compress(tar_of({"a": random.Random(3).randbytes(100_000)}), mtime=0)),
    ],
)
async def test_a_deep_check_reports_about_as_many_bytes_as_the_file_has(tmp_path, name, data):
    seen: list[int] = []
    await check_product(saved(tmp_path, data), deep(), name=name, progress=seen.append)
    assert len(data) * 0.9 < sum(seen) <= len(data)
