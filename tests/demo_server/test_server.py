"""The demo archive over real sockets, as other tests rely on it."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.demo_server.access import Access, Given
from bulkdl.demo_server.catalog import Item, Validators
from bulkdl.demo_server.faults import Stall
from bulkdl.demo_server.generated_files import Kind
from bulkdl.demo_server.range_requests import Part, Unsatisfiable, Whole, http_date, select
from bulkdl.demo_server.server import Archive, Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE = Item(name="large.bin", size=3_000_000)


class OneToken:
    def check(self, token: str) -> bool:
        return token == "good"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_product_arrives_whole_with_its_validators_and_name(
    archive: Archive, client: aiohttp.ClientSession
) -> None:
    item = archive.items["product.zip"]
    async with client.get(archive.url(item, Route.DOWNLOAD)) as response:
        assert response.status == 200
        assert await response.read() == item.read()
        assert response.headers["ETag"] == item.etag
        assert response.headers["Last-Modified"] == http_date(item.last_modified)
        assert response.headers["Accept-Ranges"] == "bytes"
        assert response.content_disposition is not None
        assert response.content_disposition.filename == "product.zip"
    [record] = archive.requests(item)
    assert (record.status, record.bytes_sent, record.given) == (200, item.size, Given.NONE)


async def test_the_files_route_names_no_file(archive: Archive, client: aiohttp.ClientSession) -> None:
    async with client.get(archive.url("scene.tif")) as response:
        assert response.content_disposition is None


async def test_head_gives_the_length_and_no_body(archive: Archive, client: aiohttp.ClientSession) -> None:
    async with client.head(archive.url("large.bin")) as response:
        assert response.status == 200
        assert response.content_length == 3_000_000
        assert await response.read() == b""
    assert archive.bytes_sent == 0


async def test_an_unknown_product_is_404(archive: Archive, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{archive.origin}/files/none.bin") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=65530-65550", (65530, 65551)),
        ("bytes=2999999-", (2_999_999, 3_000_000)),
        ("bytes=-5", (2_999_995, 3_000_000)),
        ("bytes=1000000-99999999", (1_000_000, 3_000_000)),
    ],
)
async def test_a_range_is_answered_with_exactly_its_bytes(
    archive: Archive, client: aiohttp.ClientSession, header: str, part: tuple[int, int]
) -> None:
    start, stop = part
    async with client.get(archive.url("large.bin"), headers={"Range": header}) as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/3000000"
        assert await response.read() == LARGE.read()[start:stop]


async def test_a_range_beyond_the_end_is_416_with_the_size(archive: Archive, client: aiohttp.ClientSession) -> None:
    async with client.get(archive.url("large.bin"), headers={"Range": "bytes=3000000-"}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == "bytes */3000000"


@pytest.mark.parametrize(
    ("validators", "if_range", "status"),
    [
        (Validators.BOTH, LARGE.etag, 206),
        (Validators.BOTH, '"other"', 200),
        (Validators.BOTH, f"W/{LARGE.etag}", 200),
        (Validators.WEAK, f"W/{LARGE.etag}", 200),
        (Validators.WEAK, LARGE.etag, 200),
        (Validators.NONE, LARGE.etag, 200),
        (Validators.DATE, http_date(LARGE.last_modified), 206),
        (Validators.DATE, http_date(LARGE.last_modified + 1), 200),
        (Validators.DATE, "yesterday", 200),
        (Validators.ETAG, http_date(LARGE.last_modified), 200),
    ],
)
async def test_if_range_compares_strongly(
    archive: Archive, client: aiohttp.ClientSession, validators: Validators, if_range: str, status: int
) -> None:
    archive.put(replace(LARGE, validators=validators))
    headers = {"Range": "bytes=10-", "If-Range": if_range}
    async with client.get(archive.url("large.bin"), headers=headers) as response:
        assert response.status == status


@given(
    size=st.integers(0, 200_000),
    start=st.integers(0, 210_000),
    length=st.one_of(st.none(), st.integers(1, 210_000)),
    seed=st.integers(0, 3),
)
def test_any_range_is_the_slice_of_the_whole(size: int, start: int, length: int | None, seed: int) -> None:
    item = Item(name="p.bin", size=size, seed=seed)
    last = "" if length is None else str(start + length - 1)
    wanted = select(item, f"bytes={start}-{last}", None)
    expected = item.read()[start : None if length is None else start + length]
    if isinstance(wanted, Part):
        assert item.read(wanted.start, wanted.stop) == expected
    else:
        assert isinstance(wanted, Unsatisfiable)
        assert expected == b""


@given(first=st.integers(0, 310_000), last=st.one_of(st.none(), st.integers(0, 310_000)))
async def test_any_range_request_brings_the_slice(
    archive: Archive, client: aiohttp.ClientSession, first: int, last: int | None
) -> None:
    whole = archive.items["product.zip"].read()
    headers = {"Range": f"bytes={first}-{'' if last is None else last}"}
    async with client.get(archive.url("product.zip"), headers=headers) as response:
        body = await response.read()
        if last is not None and last < first:
            assert (response.status, body) == (200, whole)
        elif first >= len(whole):
            assert response.status == 416
        else:
            assert (response.status, body) == (206, whole[first : None if last is None else last + 1])


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=", "bytes=-", "bytes=0-1,4-5", "lines=0-1", "nonsense", None])
def test_a_malformed_or_multiple_range_is_ignored(header: str | None) -> None:
    assert select(LARGE, header, None) == Whole()


async def test_a_product_without_a_token_is_refused_with_a_challenge(client: aiohttp.ClientSession) -> None:
    async with Archive([LARGE], access={"": Access(header=OneToken(), query=OneToken())}) as archive:
        url = archive.url(LARGE)
        for headers, query, status, challenge in (
            ({}, "", 401, 'Bearer realm="archive"'),
            ({"Authorization": "Bearer bad"}, "", 401, 'Bearer realm="archive", error="invalid_token"'),
            ({}, "?token=bad", 401, 'Bearer realm="archive", error="invalid_token"'),
            ({"Authorization": "Bearer good"}, "", 200, None),
            ({}, "?token=good", 200, None),
        ):
            async with client.get(url + query, headers=headers) as response:
                assert response.status == status
                assert response.headers.get("WWW-Authenticate") == challenge
        assert [r.given for r in archive.log] == [Given.NONE, Given.HEADER, Given.QUERY, Given.HEADER, Given.QUERY]
        assert sum(r.bytes_sent for r in archive.log) == 2 * LARGE.size


async def test_the_longest_prefix_decides_who_may_have_a_product(client: aiohttp.ClientSession) -> None:
    user = ("jo", "pÄss:wörd€")
    access = {"S2": Access(basic=user), "S2_open": Access()}
    async with Archive([Item(name="S2_a.bin", size=3), Item(name="S2_open.bin", size=3)], access=access) as archive:
        basic = {"Authorization": aiohttp.encode_basic_auth(*user, encoding="utf-8")}
        for name, headers, status in (("S2_a.bin", {}, 401), ("S2_a.bin", basic, 200), ("S2_open.bin", {}, 200)):
            async with client.get(archive.url(name), headers=headers) as response:
                assert response.status == status


async def test_one_connection_too_many_is_429_with_retry_after(client: aiohttp.ClientSession) -> None:
    access = {"": Access(account="a", max_connections=1, retry_after="7")}
    async with Archive([LARGE], access=access) as archive:
        archive.faults.add(Stall(after=10))
        async with client.get(archive.url(LARGE)) as first:
            await first.content.readexactly(10)
            async with client.get(archive.url(LARGE)) as second:
                assert (second.status, second.headers["Retry-After"]) == (429, "7")


async def test_the_catalogue_routes_redirect_to_the_same_or_another_origin(
    archive: Archive, client: aiohttp.ClientSession
) -> None:
    for route, origin in ((Route.CATALOGUE, archive.origin), (Route.ELSEWHERE, archive.other_origin)):
        async with client.get(archive.url("scene.tif", route)) as response:
            assert str(response.url).startswith(f"{origin}/download/")
            assert await response.read() == archive.items["scene.tif"].read()
    assert [r.status for r in archive.log] == [302, 200, 302, 200]
    assert len(archive.requests("scene.tif")) == 2


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512", "blake3"])
def test_digests_are_those_of_the_bytes(kind: Kind, algorithm: str) -> None:
    item = Item(name=f"p.{kind}", size=1_234_567, kind=kind)
    whole = item.read()
    assert len(whole) == item.size
    expected = blake3(whole) if algorithm == "blake3" else hashlib.new(algorithm, whole)
    assert item.digest(algorithm) == expected.hexdigest()


def test_each_kind_begins_as_its_kind_does() -> None:
    starts = {
        Kind.ZIP: b"PK\3\4",
        Kind.TIFF: b"II*\0",
        Kind.HDF5: b"\x89HDF\r\n\x1a\n",
        Kind.JP2: b"\0\0\0\x0cjP  \r\n\x87\n",
    }
    for kind, start in starts.items():
        assert Item(name="p", size=100_000, kind=kind).read(0, len(start)) == start


def test_a_zip_is_a_zip_and_a_json_is_json() -> None:
    with zipfile.ZipFile(io.BytesIO(Item(name="p.zip", size=250_000, kind=Kind.ZIP).read())) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2
    assert json.loads(Item(name="p.json", size=5000, kind=Kind.JSON).read())["id"] == "p.json"


def test_a_new_version_has_other_bytes_and_another_etag() -> None:
    after = LARGE.next_edition()
    assert after.size == LARGE.size
    assert after.etag != LARGE.etag
    assert after.read() != LARGE.read()


def test_a_product_too_small_for_its_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        Archive([Item(name="p.zip", size=10, kind=Kind.ZIP)])
