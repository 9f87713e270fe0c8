"""`bulkdl manifest` by the command line: nothing of a list is lost without a word, and no file of the user either."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.servers import reply

if TYPE_CHECKING:
    from tests.contract.program import Place, Site

SHA256 = "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"
A = "https://a.example.org/"


def made(place: Place, name: str = "m.yaml") -> list[object]:
    return yaml.safe_load((place.cwd / name).read_text(encoding="utf-8"))["products"]


def test_a_line_that_cannot_be_used_is_named_and_the_exit_code_tells(place: Place):
    place.text(f"url,file\n{A}1,a.nc\ns3://bucket/b,b.nc\n{A}2,../x\n{A}3,c.nc\n", name="list.csv")
    done = place("manifest", "csv", "list.csv", "-o", "m.yaml")
    assert (done.code, done.out) == (1, "")
    assert [entry["file"] for entry in made(place)] == ["a.nc", "c.nc"]
    assert "list.csv:3:1: " in done.err
    assert "list.csv:4:1: " in done.err
    assert "2 entries of list.csv are not in the manifest" in done.err


@pytest.mark.parametrize(("more", "code"), [((), 1), (("--max", "1"), 0), (("--max", "5"), 1)])
def test_one_page_of_a_result_ends_with_1_unless_no_more_was_wanted(more: tuple[str, ...], code: int, place: Place):
    page = {"value": [{"Id": "1", "Name": "a.nc"}, {"Id": "2", "Name": "b.nc"}], "@odata.count": 250}
    place.text(json.dumps(page), name="list.json")
    done = place("manifest", "odata", "list.json", "--base-url", A, "-o", "m.yaml", *more)
    assert done.code == code, done.err
    assert ("2 of 250 products" in done.err) is (code == 1)
    assert len(made(place)) == (1 if more == ("--max", "1") else 2)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("urls", "# none\n"),
        ("csv", "url\n"),
        ("aria2", ""),
        ("odata", '{"value": []}'),
        ("stac", '{"features": []}'),
        ("sha256sums", "\n"),
        ("metalink", "<metalink/>"),
    ],
)
def test_a_list_without_products_makes_no_manifest(form: str, text: str, place: Place):
    place.text(text, name="list")
    done = place("manifest", form, "list", "-o", "m.yaml", "--base-url", A)
    assert (done.code, done.out) == (2, "")
    assert "no manifest was written" in done.err
    assert "downloaded" not in done.err.replace("products will be downloaded from", "")
    assert not (place.cwd / "m.yaml").exists()


def test_a_file_of_the_user_is_not_overwritten_without_force(place: Place):
    place.text(f"{A}1\n", name="list")
    place.text("mine")
    done = place("manifest", "urls", "list", "-o", "m.yaml")
    assert done.code == 2
    assert "--force" in done.err
    assert (place.cwd / "m.yaml").read_text() == "mine"
    assert place("manifest", "urls", "list", "-o", "m.yaml", "--force").code == 0
    assert made(place) == [f"{A}1"]
    assert place("manifest", "urls", "list", "-o", "/dev/null").code == 0
    assert sorted(path.name for path in place.cwd.iterdir()) == ["list", "m.yaml"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_may_have_any_encoding_that_a_manifest_may_have(encoding: str, end: str, place: Place):
    (place.cwd / "list").write_bytes(end.join((f"{SHA256}  każdy.nc", f"{SHA256}\tb.nc", "")).encode(encoding))
    done = place("manifest", "sha256sums", "list", "-o", "m.yaml", "--base-url", A)
    assert done.code == 0, done.err
    assert [entry["file"] for entry in made(place)] == ["każdy.nc", "b.nc"]


def test_a_pipe_in_another_encoding_keeps_every_name(place: Place):
    place.text(f"{SHA256}  każdy € ü.nc\n", name="list")
    done = place("manifest", "sha256sums", "list", "--base-url", A, env={"PYTHONIOENCODING": "cp1252"})
    assert done.code == 0
    assert yaml.safe_load(done.out)["products"][0]["file"] == "każdy € ü.nc"


def test_no_secret_of_a_line_is_printed(place: Place):
    place.text(f"{A}1\n  header=Authorization: Bearer hush\n  out=a.nc\nuser:hush@x\n", name="list")
    for words in (("run", "list"), ("check", "list"), ("manifest", "urls", "list"), ("manifest", "aria2", "list")):
        done = place(*words)
        assert done.code != 0
        assert "hush" not in done.err + done.out


LISTS = {
    "csv": f"url,file\n{A}1,a.nc\n",
    "aria2": f"{A}1\n  out=a.nc\n",
    "metalink": f'<?xml version="1.0"?><metalink><file name="a"><url>{A}1</url></file></metalink>',
    "stac": json.dumps({"type": "FeatureCollection", "features": [{"id": "i", "assets": {"a": {"href": f"{A}1"}}}]}),
    "odata": json.dumps({"@odata.context": "x", "value": [{"Id": "1", "Name": "a.nc"}]}),
    "sha256sums": f"{SHA256}  a.nc\n",
}


@pytest.mark.parametrize("command", ["run", "check", "status", "verify"])
@pytest.mark.parametrize("form", LISTS)
def test_a_list_in_place_of_a_manifest_is_named_with_the_command_that_converts_it(
    form: str, command: str, place: Place
):
    place.text(LISTS[form], name="list")
    for words, stdin in (((command, "list"), None), ((command, "-"), LISTS[form])):
        done = place(*words, stdin=stdin)
        assert (done.code, len(done.err.splitlines())) == (2, 2), done.err
        assert f"bulkdl manifest {form} {words[1]} " in done.err


def test_an_unquoted_reference_in_braces_is_named(place: Place):
    place.text("accounts: {a: {auth: basic, username: ${U}, password: ${P}}}\nproducts: [https://a.example.org/1]\n")
    done = place("check", "m.yaml")
    assert done.code == 2
    assert "put ${NAME}" in done.err


@pytest.mark.parametrize("padding", [0, 400_000], ids=["small", "large"])
@pytest.mark.parametrize(
    ("begin", "disposition", "file"),
    [
        (b"zip", "", "S5P_X.nc.zip"),
        (b"zip", "attachment; filename=S5P_X.nc", "S5P_X.nc.zip"),
        (b"zip", "attachment; filename=S5P_X.zip", "S5P_X.zip"),
        (b"\x89HDF\r\n\x1a\n", "", "S5P_X.nc"),
    ],
)
def test_a_product_of_a_catalogue_gets_a_name_that_fits_its_bytes(
    begin: bytes, disposition: str, file: str, padding: int, site: Site, place: Place
):
    body = zip_of(b"x" * padding) if begin == b"zip" else begin + bytes(1000 + padding)
    fields = (("Content-Disposition", disposition),) if disposition else ()
    site.routes["/s5p/Products(1)/$value"] = reply(200, body, *fields)
    place.text(json.dumps({"value": [{"Id": "1", "Name": "S5P_X.nc", "ContentLength": len(body)}]}), name="list")
    base = site.raw.url("/s5p")
    assert place("manifest", "odata", "list", "--base-url", base, "-o", "m.yaml").code == 0
    done = place.run()
    assert (done.code, place.names()) == (0, {file}), done.err
    assert place.get(file) == body
    assert place.run().counts == {"skipped": 1}


def zip_of(data: bytes) -> bytes:
    made_of = io.BytesIO()
    with zipfile.ZipFile(made_of, "w") as archive:
        archive.writestr("S5P_X/S5P_X.nc", data)
    return made_of.getvalue()
