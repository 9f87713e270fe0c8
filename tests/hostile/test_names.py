"""Names that an archive gives to products: none leaves the destination, is a device or replaces another file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bulkdl.core.filenames import is_reserved
from tests.harness import Place, body_of
from tests.servers import RawRequest, RawServer, Wire, announce, head, reply

if TYPE_CHECKING:
    from pathlib import Path

BODY = body_of(20_000)

# name from the archive · resulting file name
GIVEN = [
    ('attachment; filename="../../etc/passwd.bin"', "passwd.bin"),
    ("attachment; filename=../../../x.bin", "x.bin"),
    ('attachment; filename="/etc/cron.d/x.bin"', "x.bin"),
    (r'attachment; filename="..\\..\\x.bin"', "x.bin"),
    (r'attachment; filename="C:\\Windows\\x.bin"', "x.bin"),
    ('attachment; filename="C:x.bin"', "C_x.bin"),
    ('attachment; filename="\\\\\\\\host\\\\share\\\\x.bin"', "x.bin"),
    ('attachment; filename=".."', "7"),
    ('attachment; filename="."', "7"),
    ('attachment; filename="..."', "7"),
    ('attachment; filename="/"', "7"),
    ('attachment; filename=""', "7"),
    ("attachment; filename", "7"),
    ("attachment", "7"),
    ("", "7"),
    ("rubbish;;;=;", "7"),
    ('attachment; filename="CON"', "_CON"),
    ('attachment; filename="NUL.bin"', "_NUL.bin"),
    ('attachment; filename="com1"', "_com1"),
    ('attachment; filename="LPT9.x.bin"', "_LPT9.x.bin"),
    ('attachment; filename="AUX .bin"', "_AUX .bin"),
    ('attachment; filename="x.bin."', "x.bin"),
    ('attachment; filename="x.bin. . ."', "x.bin"),
    ('attachment; filename="  x.bin  "', "x.bin"),
    ('attachment; filename="a:b|c?d*e<f>.bin"', "a_b_c_d_e_f_.bin"),
    ('attachment; filename="a\tb.bin"', "a_b.bin"),
    ('attachment; filename="a\x7fb.bin"', "a_b.bin"),
    ('attachment; filename=".bulkdl/journal.sqlite"', "journal.sqlite"),
    ('attachment; filename=".bulkdl"', "_.bulkdl"),
    ('attachment; filename=".BULKDL"', "_.BULKDL"),
    ('attachment; filename="%2e%2e%2fx.bin"', "%2e%2e%2fx.bin"),
    ("attachment; filename*=UTF-8''%2e%2e%2fx.bin", "x.bin"),
    ("attachment; filename*=UTF-8''..%5c..%5cx.bin", "x.bin"),
    ("attachment; filename*=UTF-8''na%C3%AFve.bin", "na\xefve.bin"),
    ("attachment; filename*=ISO-8859-1''na%EFve.bin", "na\xefve.bin"),
    ("attachment; filename=\"plain.bin\"; filename*=UTF-8''extended.bin", "extended.bin"),
    ("attachment; filename*=UTF-8''extended.bin; filename=\"plain.bin\"", "extended.bin"),
    ("attachment; filename=\"plain.bin\"; filename*=UTF-8''%FF%FE", "plain.bin"),
    ("attachment; filename=\"plain.bin\"; filename*=rot13''x.bin", "plain.bin"),
    ("attachment; filename=\"plain.bin\"; filename*=UTF-8''", "plain.bin"),
    ("attachment; filename=\"plain.bin\"; filename*=UTF-8''%zz%4", "%zz%4"),
    ("attachment; filename*=UTF-8''a%00b.bin", "a_b.bin"),
    ("attachment; filename*=UTF-8''a%0d%0ab.bin", "a__b.bin"),
    ("attachment; filename*=UTF-8''%E2%80%AEnib.exe.bin", "_nib.exe.bin"),
    ('attachment; filename="na\xc3\xafve.bin"', "na\xefve.bin"),
    ('attachment; filename="x.bin', "x.bin"),
    ('attachment; filename="first.bin"; filename="second.bin"', "first.bin"),
    ("inline; filename=x.bin; size=5", "x.bin"),
    ("filename=x.bin", "x.bin"),
    ('attachment; FileName="x.bin"', "x.bin"),
    ('attachment; filename="x.part"', "x.part"),
    ('attachment; filename=".part"', ".part"),
    ('attachment; filename="-rf.bin"', "-rf.bin"),
    ('attachment; filename="~/x.bin"', "x.bin"),
    ('attachment; filename="$(reboot).bin"', "$(reboot).bin"),
]


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(("said", "file"), GIVEN, ids=[ascii(row[0]) for row in GIVEN])
async def test_a_product_gets_one_safe_name_below_the_destination(said: str, file: str, tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, BODY, ("Content-Disposition", said))) as server:
        done = await place.run(server.url("/get/7"))
    assert (done.code, place.names(), place.file(file)) == (0, [file], BODY)
    assert beside(tmp_path) <= {"products", "state"}
    assert not is_reserved(file)


LONG = [
    ("n" * 300 + ".bin", ".bin"),
    ("n" * 300, ""),
    ("\xc3\xa9" * 300 + ".SAFE.bin", ".SAFE.bin"),
    ("n." + "s" * 300, ""),
    ("d/" * 5000 + "x.bin", "x.bin"),
    ("." * 300 + "x", "x"),
]


@pytest.mark.parametrize(("name", "end"), LONG, ids=[row[0][:9] for row in LONG])
async def test_a_name_that_is_too_long_is_cut_with_its_suffix_kept(name: str, end: str, tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, BODY, ("Content-Disposition", f'attachment; filename="{name}"'))) as server:
        done = await place.run(server.url("/get/7"))
        again = await place.run(server.url("/get/7"))
    (file,) = place.names()
    assert (done.code, again.result.skipped, place.file(file)) == (0, 1, BODY)
    assert file.endswith(end)
    assert len(file.encode()) <= 255


async def test_a_long_name_is_continued_after_a_cut(tmp_path: Path):
    place, name = Place(tmp_path), "n" * 251 + ".bin"
    fields = (("Content-Disposition", f"attachment; filename={name}"), ("ETag", '"1"'))

    async def rest(request: RawRequest, wire: Wire) -> None:
        start, stop = request.range(len(BODY)) or (0, len(BODY))
        span = ("Content-Range", f"bytes {start}-{stop - 1}/{len(BODY)}")
        await wire.send(head(206, ("Content-Length", stop - start), span, *fields) + BODY[start:stop])

    async with RawServer(announce(len(BODY), BODY[:5000], *fields), rest) as server:
        done = await place.run(server.url("/get/7"))
        assert server.log[1].header("Range") == "bytes=5000-"
    assert (done.code, place.names(), place.file(name)) == (0, [name], BODY)


async def test_a_name_that_changes_between_two_answers_stays_the_first(tmp_path: Path):
    place = Place(tmp_path)

    def named(name: str):
        return ("Content-Disposition", f"attachment; filename={name}")

    cut = announce(len(BODY), BODY[:5000], named("first.bin"), ("ETag", '"1"'))
    async with RawServer(cut, reply(200, BODY, named("second.bin"), ("ETag", '"2"'))) as server:
        done = await place.run(server.url("/get/7"))
    assert (done.code, place.names()) == (0, ["first.bin"])


@pytest.mark.parametrize(("one", "two"), [("x.bin", "x.bin"), ("x.bin", "X.BIN"), ("x.bin", "x.bin.")])
async def test_one_of_two_products_with_the_same_name_is_a_conflict(one: str, two: str, tmp_path: Path):
    place, names = Place(tmp_path), {"/a": one, "/b": two}
    bodies = {"/a": BODY, "/b": BODY[::-1]}

    async def named(request: RawRequest, wire: Wire) -> None:
        field = ("Content-Disposition", f'attachment; filename="{names[request.path]}"')
        await reply(200, bodies[request.path], field)(request, wire)

    async with RawServer(named) as server:
        done = await place.run(server.url("/a"), server.url("/b"), workers=1)
    assert (done.code, done.failure[0], place.names(), place.file("x.bin")) == (1, "conflict", ["x.bin"], BODY)


@pytest.mark.parametrize(("name", "kind"), [("x.bin.part", "conflict"), ("X.BIN.PART", None)])
@pytest.mark.parametrize("size", [9000, 20_000])
async def test_a_product_named_like_the_partial_of_another_harms_neither(
    name: str, kind: str | None, size: int, tmp_path: Path
):
    place = Place(tmp_path)
    body = BODY[::-1][:size]
    field = ("Content-Disposition", f"attachment; filename={name}")
    half = announce(len(BODY), BODY[:9000], ("ETag", '"1"'))

    async def serve(request: RawRequest, wire: Wire) -> None:
        await (half if request.path == "/x.bin" else reply(200, body, field))(request, wire)

    async with RawServer(serve) as server:
        done = await place.run(server.url("/x.bin"), server.url("/get"), workers=1)
    other = done.outcomes[name].failure
    assert (other and other.kind.value) == kind
    assert place.file(name) == (body if kind is None else BODY[:9000])
    assert done.outcomes["x.bin"].failure is not None
    assert place.file("x.bin") is None
    assert place.entry_of("x.bin").ranges == ((0, 9000),)
    assert place.file(place.entry_of("x.bin").part or "") == BODY[:9000]


async def test_products_whose_urls_end_in_one_name_all_get_a_place_and_keep_it(tmp_path: Path):
    place = Place(tmp_path)

    async def serve(request: RawRequest, wire: Wire) -> None:
        await reply(200, body_of(3000, seed=sum(request.target.encode())))(request, wire)

    async with RawServer(serve) as server:
        first = server.url("/get?id=1&token=hushhush")
        alone = await place.run(first)
        paths = ("/e1/B04.tif.bin", "/e2/B04.tif.bin", "/get?id=2&token=hush", "/get?id=3", "/list/", "/other/list/")
        urls = [*map(server.url, paths), first]
        done = await place.run(*urls)
        again = await place.run(*reversed(urls))
        asked = len(server.log)
        later = await place.run(server.url("/e0/B04.tif.bin"), *urls)
    names = ["e1/B04.tif.bin", "e2/B04.tif.bin", "get", "get_id=2", "get_id=3", "list", "other/list"]
    assert (alone.code, done.code, done.result.skipped, place.names()[-7:]) == (0, 0, 1, names)
    assert (again.code, again.result.skipped, asked) == (0, 7, 7)
    assert (later.code, later.result.skipped, place.names()) == (0, 7, ["e0/B04.tif.bin", *names])
    assert place.file("get") == body_of(3000, seed=sum(b"/get?id=1&token=hushhush"))


async def test_the_archives_name_outranks_the_one_that_tells_urls_apart(tmp_path: Path):
    place = Place(tmp_path)

    async def serve(request: RawRequest, wire: Wire) -> None:
        number = request.target[-1]
        await reply(200, BODY, ("Content-Disposition", f"attachment; filename='x{number}.bin'"))(request, wire)

    async with RawServer(serve) as server:
        done = await place.run(server.url("/get?id=1"), server.url("/get?id=2"))
    assert (done.code, place.names()) == (0, ["x1.bin", "x2.bin"])


async def test_a_product_that_lost_its_name_before_gets_one_of_its_own_now(tmp_path: Path):
    place, field = Place(tmp_path), ("Content-Disposition", "attachment; filename=get")

    async def serve(request: RawRequest, wire: Wire) -> None:
        await reply(200, BODY, *((field,) if len(server.log) <= 2 else ()))(request, wire)

    async with RawServer(serve) as server:
        urls = server.url("/get?id=1"), server.url("/get?id=2")
        before = await place.run(*urls, workers=1)
        done = await place.run(*urls)
    assert (before.code, done.code, place.names()) == (1, 0, ["get", "get_id=2"])


async def test_latin_1_names_that_differ_in_one_byte_do_not_clash(tmp_path: Path):
    place = Place(tmp_path)

    async def serve(request: RawRequest, wire: Wire) -> None:
        byte = b"\xe4" if request.path == "/1" else b"\xf6"
        value = b"Content-Disposition: attachment; filename=foo-" + byte + b".dat\r\n"
        lines = head(200, ("Content-Length", len(BODY))).replace(b"\r\n\r\n", b"\r\n" + value + b"\r\n")
        await wire.send(lines + BODY)

    async with RawServer(serve) as server:
        done = await place.run(server.url("/1"), server.url("/2"))
    assert (done.code, place.names()) == (0, ["foo-ä.dat", "foo-ö.dat"])


async def test_two_files_that_are_one_by_a_link_are_never_mixed(tmp_path: Path):
    place = Place(tmp_path)
    (place.root / "y").mkdir(parents=True)
    (place.root / "x").symlink_to("y")
    bodies = {"/a": BODY, "/b": BODY[::-1]}

    async def serve(request: RawRequest, wire: Wire) -> None:
        await reply(200, bodies[request.path])(request, wire)

    async with RawServer(serve) as server:
        products = {"url": server.url("/a"), "file": "x/a.bin"}, {"url": server.url("/b"), "file": "y/a.bin"}
        done = await place.run(*products)
        again = await place.run(*products)
    assert (done.code, done.failure[0], place.file("x/a.bin")) == (1, "conflict", BODY)
    assert (again.code, again.failure[0], again.result.skipped) == (1, "conflict", 1)
