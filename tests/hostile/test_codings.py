"""Unrequested content codings: decoded if that is safe, otherwise a named failure."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.errors import TryAgain
from bulkdl.protocol import content_coding
from bulkdl.protocol.content_coding import Decoder, is_file_format, parse_codings
from tests.effort import effort
from tests.harness import Place, body_of, sha256
from tests.hostile.scenes import BODY, CUT, DOSES, MOST, SIZE, Case, Turn, survive
from tests.servers import RawServer, announce, chunked, ranges, reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Responder


def bare(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


CODED = {
    "gzip": gzip.compress(BODY, mtime=0),
    "x-gzip": gzip.compress(BODY, mtime=0),
    "GZip ": gzip.compress(BODY[:CUT], mtime=0) + gzip.compress(BODY[CUT:], mtime=0),
    "deflate": zlib.compress(BODY),
    "deflate, bare": bare(BODY),
}
GZIP, E1 = ("Content-Encoding", "gzip"), ("ETag", '"1"')
PACKED = CODED["gzip"]
HTTP_ENDS = {"always": "network"}


def field_of(name: str) -> tuple[str, str]:
    return ("Content-Encoding", name.partition(",")[0])


def coded(name: str, *, body: bytes | None = None, count: int = -1, chunks: bool = False):
    """Send the whole product encoded, with the validators of the plain product, as careless servers do."""
    packed = CODED[name] if body is None else body

    async def answer(turn: Turn) -> None:
        fields = [field_of(name), ("Accept-Ranges", "bytes"), *turn.mode.fields]
        responder = (
            chunked(packed, *fields)
            if chunks
            else announce(len(packed), packed if count < 0 else packed[:count], *fields)
        )
        await responder(turn.request, turn.wire)

    return answer


def coded_range(*, of_whole: bool):
    """Send a range of the encoded bytes (RFC 9110 §14.2), or encode the range itself, which violates HTTP."""

    async def answer(turn: Turn) -> None:
        if turn.asked is None:
            await turn.orderly()
            return
        start, stop = turn.asked
        body = PACKED[start:] if of_whole else gzip.compress(BODY[start:stop])
        total = len(PACKED) if of_whole else SIZE
        span = ("Content-Range", f"bytes {start}-{total - 1}/{total}")
        await turn.send(206, body, span, GZIP, *turn.mode.fields)

    return answer


def unknown(name: str, body: bytes = BODY):
    async def answer(turn: Turn) -> None:
        await turn.whole(body, ("Content-Encoding", name))

    return answer


async def in_the_transfer(turn: Turn) -> None:
    """Use a transfer coding that `TE` did not allow (RFC 9112 §7.2)."""
    pieces = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PACKED), PACKED)
    first = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n"
    await turn.wire.send(first + pieces)


WRONG = bytearray(PACKED)
WRONG[len(PACKED) // 2] ^= 0xFF
SUMMED = ("new, checksum", "cut, checksum")
NEVER: dict[str, Any] = {"always": "content"}
UNLESS_SUMMED: dict[str, Any] = {"always": "content", "but": {f"always, {mode}": "checksum" for mode in SUMMED}}
"""A checksum decides whether the bytes are the product."""
CASES = {
    **{f"{name}": Case(answer=coded(name)) for name in CODED},
    "gzip in chunks": Case(answer=coded("gzip", chunks=True)),
    "gzip, cut": Case(answer=coded("gzip", count=150_000), **HTTP_ENDS),
    "gzip, cut before its last byte": Case(answer=coded("gzip", count=len(PACKED) - 1), **HTTP_ENDS),
    "gzip that ends early as if it were whole": Case(answer=coded("gzip", body=PACKED[:-1]), **HTTP_ENDS),
    "gzip in chunks that ends early": Case(answer=coded("gzip", body=PACKED[:150_000], chunks=True), **HTTP_ENDS),
    "deflate that ends early": Case(answer=coded("deflate", body=CODED["deflate"][:-3]), **HTTP_ENDS),
    "bare deflate that ends early": Case(answer=coded("deflate", body=bare(BODY)[:-3]), **HTTP_ENDS),
    "gzip of nothing at all": Case(answer=coded("gzip", body=b""), **HTTP_ENDS),
    "gzip with something behind": Case(answer=coded("gzip", body=PACKED + b"more"), always="content"),
    "gzip with half a member behind": Case(answer=coded("gzip", body=PACKED + PACKED[:1]), **HTTP_ENDS),
    "deflate with something behind": Case(answer=coded("deflate", body=zlib.compress(BODY) + b"\0"), always="content"),
    "gzip with a wrong byte": Case(answer=coded("gzip", body=bytes(WRONG)), always="content"),
    "gzip that is no gzip": Case(answer=coded("gzip", body=BODY)),
    **{f"{name} of plain bytes": Case(answer=unknown(name)) for name in ("deflate", "compress", "zstd", "gzip, gzip")},
    **{name: Case(answer=unknown(name)) for name in ("none", "binary", "UTF-8", "8bit", "aws-chunked", "rubbish \xff")},
    "a range of the coded bytes": Case(answer=coded_range(of_whole=True)),
    "a range that is coded by itself": Case(answer=coded_range(of_whole=False)),
    "gzip of a login page": Case(answer=coded("gzip", body=gzip.compress(b"<!DOCTYPE html><html>")), always="content"),
    "two codings": Case(answer=unknown("gzip, gzip", gzip.compress(PACKED)), **UNLESS_SUMMED),
    "zstd": Case(answer=coded("zstd", body=b"\x28\xb5\x2f\xfd" + BODY), **UNLESS_SUMMED),
    "signed chunks of an upload": Case(
        answer=coded("aws-chunked", body=b"%x;chunk-signature=%s\r\n" % (SIZE, b"a" * 64) + BODY + b"\r\n"),
        **UNLESS_SUMMED,
    ),
    "chunks of an upload": Case(
        answer=coded("aws-chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (SIZE, BODY)), **UNLESS_SUMMED
    ),
    **{
        name: Case(answer=unknown(name), **NEVER, but={f"{dose}, {mode}": "right" for dose in DOSES for mode in SUMMED})
        for name in ("br", "aes128gcm")
    },
    "identity": Case(answer=unknown("identity")),
    "gzip in the transfer": Case(answer=in_the_transfer, **NEVER),
}
SOME = effort(
    ("new", "new, size", "cut, ETag", "cut, checksum"),
    ("new", "new, size", "new, checksum", "cut, ETag", "cut, checksum", "cut, overlap"),
)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
async def test_a_coded_product_is_decoded_whole_or_a_named_failure_after(name: str, tmp_path: Path):
    everywhere = name in {"gzip", "gzip, cut", "a range of the coded bytes"}
    case = CASES[name]
    await survive(
        Case(answer=case.answer, once=case.once, always=case.always, but=case.but, only=MOST if everywhere else SOME),
        tmp_path,
    )


async def one(tmp_path: Path, *answers: Responder, path: str = "/product.bin", **product: Any):
    """Run one product; return the result and the `Range` of each request."""
    place = Place(tmp_path)
    async with RawServer(*answers) as server:
        done = await place.run({"url": server.url(path), "file": "x.bin", **product})
        return place, done, [r.header("Range") for r in server.log]


SIZES = [
    ("larger", SIZE + 1, "network"),
    ("smaller", SIZE - 1, "size"),
    ("that of the coded bytes", len(PACKED), "network"),
]


@pytest.mark.parametrize(("what", "size", "kind"), SIZES, ids=[row[0] for row in SIZES])
async def test_the_size_in_the_manifest_is_that_of_the_decoded_product(what: str, size: int, kind: str, tmp_path: Path):
    place, done, _ = await one(tmp_path, reply(200, PACKED, GZIP), size=size)
    assert (done.code, done.failure[0], place.file("x.bin")) == (1, kind, None)


async def test_a_cut_inside_an_encoded_body_restarts_despite_any_validator(tmp_path: Path):
    half = announce(len(PACKED), PACKED[:150_000], GZIP, E1, ("Accept-Ranges", "bytes"))
    place, done, asked = await one(tmp_path, half, half, ranges(BODY), checksum=sha256(BODY), size=SIZE)
    assert (done.code, place.file("x.bin"), asked) == (0, BODY, [None, None, None])
    assert done.result.received == 300_000 + SIZE  # encoded bytes on the network, not decoded ones


async def test_the_etag_of_a_coded_answer_never_goes_into_if_range(tmp_path: Path):
    place = Place(tmp_path, retries=1)
    half = announce(len(PACKED), PACKED[:150_000], GZIP, E1)
    async with RawServer(half, announce(SIZE, BODY[:CUT], E1), ranges(BODY)) as server:
        codes = [(await place.run({"url": server.url(), "file": "x.bin"})).code]
        assert (place.entry().ranges, place.entry().etag) == ((), None)
        codes += [(await place.run({"url": server.url(), "file": "x.bin"})).code for _ in range(2)]
        asked = [(r.header("Range"), r.header("If-Range")) for r in server.log]
    assert place.file("x.bin") == BODY
    assert asked[:2] == [(None, None), (None, None)]
    assert asked[2] == (f"bytes={CUT}-", '"1"')
    assert codes[-1] == 0


KEPT = [
    ("/a.csv.gz", {"file": "x.gz"}, "x.gz", ()),
    ("/a.csv.gz", {"file": "x.bin"}, "x.bin", ()),
    ("/get/7", {"file": "x.TGZ"}, "x.TGZ", ()),
    ("/get/7", {"file": None}, "named.csv.gz", (("Content-Disposition", "attachment; filename=named.csv.gz"),)),
]


@pytest.mark.parametrize(("path", "product", "file", "fields"), KEPT)
async def test_a_product_with_a_compressed_file_name_stays_compressed(path, product, file, fields, tmp_path: Path):
    wish = {key: value for key, value in product.items() if value is not None}
    place = Place(tmp_path)
    cut = announce(len(PACKED), PACKED[:CUT], GZIP, E1, *fields)
    async with RawServer(cut, ranges(PACKED, GZIP, *fields)) as server:
        done = await place.run({"url": server.url(path), **wish})
        assert (done.code, place.file(file), place.names()) == (0, PACKED, [file])
        assert [r.header("Range") for r in server.log] == [None, f"bytes={CUT}-"]


async def test_a_name_of_another_coding_does_not_prevent_decoding(tmp_path: Path):
    place, done, _ = await one(tmp_path, reply(200, PACKED, GZIP), file="x.br")
    assert (done.code, place.file("x.br")) == (0, BODY)


async def test_the_size_of_an_encoded_response_is_not_compared_with_an_existing_file(tmp_path: Path):
    place = Place(tmp_path)
    place.root.mkdir()
    (place.root / "x.bin").write_bytes(bytes(len(PACKED)))
    async with RawServer(ranges(PACKED, GZIP)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
    assert (done.code, done.failure[0], place.file("x.bin")) == (1, "conflict", bytes(len(PACKED)))


async def test_a_decompression_bomb_ends_at_the_size_in_the_manifest(tmp_path: Path):
    bomb = gzip.compress(bytes(400_000_000), mtime=0, compresslevel=1)
    tracemalloc.start()
    try:
        place, done, _ = await one(tmp_path, reply(200, bomb, GZIP), size=50_000_000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (done.code, done.failure[0], place.file("x.bin")) == (1, "size", None)
    assert most < 40_000_000


# ---- Decoder unit tests


def decoded(name: str, packed: bytes, sizes: list[int]) -> bytes:
    decoder, out, at = Decoder(name), bytearray(), 0
    while at < len(packed):
        size = sizes[at % len(sizes)]
        decoder.feed(packed[at : at + size])
        at += size
        while piece := decoder.step():
            assert len(piece) <= content_coding.STEP
            out += piece
    decoder.finish()
    return bytes(out)


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("seed", range(3))
def test_the_output_does_not_depend_on_the_block_sizes(name: str, seed: int):
    sizes = random.Random(seed).choices([1, 2, 3, 100, 65_536], k=7) if seed else [65_536]
    body, packed = BODY[:70_000] + bytes(700_000), CODED[name]
    packed = bare(body) if "bare" in name else zlib.compress(body) if name == "deflate" else gzip.compress(body) * 1
    assert decoded(parse_codings([name.partition(",")[0]]), packed, sizes) == body


@pytest.mark.parametrize("name", CODED)
def test_no_truncated_encoded_body_counts_as_complete(name: str):
    packed = {"deflate": zlib.compress, "deflate, bare": bare}.get(name, gzip.compress)(body_of(200))
    word = parse_codings([name.partition(",")[0]])
    assert decoded(word, packed, [7]) == body_of(200)
    for count in range(len(packed)):
        with pytest.raises(TryAgain):
            decoded(word, packed[:count], [7])


WORDS = [
    ([], ""),
    (["identity"], ""),
    ([" GZIP "], "gzip"),
    (["x-gzip"], "gzip"),
    (["identity, gzip"], "gzip"),
    (["identity", "gzip"], "gzip"),
    (["gzip", "br"], "gzip, br"),
    ([","], ""),
    (["x-gzipped"], ""),
    (["aws-chunked, GZIP;q=1"], "gzip"),
    (["utf-8", "br"], "br"),
    (["transfer gzip"], "transfer gzip"),
    (["x-compress"], "compress"),
]


@pytest.mark.parametrize(("fields", "word"), WORDS, ids=[str(row[0]) for row in WORDS])
def test_the_codings_that_fields_name(fields: list[str], word: str):
    assert parse_codings(fields) == word


FORMATS = [("gzip", "a.gz", True), ("gzip", "a.tgz", True), ("gzip", "a.csv", False), ("br", "a.gz", False), ("", "a.gz", False),
           ("br", "a.br", True), ("zstd", "a.zst", True), ("gzip, gzip", "a.gz", False)]  # fmt: skip


@pytest.mark.parametrize(("word", "name", "is_it"), FORMATS)
def test_a_name_says_that_the_coding_is_the_format(word: str, name: str, is_it: bool):  # noqa: FBT001
    assert is_file_format(word, ["x", name]) == is_it
