"""Lists as the field has them: nothing is left out, cut or renamed without a word."""

from __future__ import annotations

import json

import pytest

from bulkdl.formats import convert

BASE = "https://archive.example.org/data/"
A = "https://a.example.org/"
MD5, SHA256 = "9e107d9d372bb6826bd81d3542a419d6", "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"
SHA512 = SHA256 * 2


def entries(form: str, text: str, base_url: str | None = None) -> list[object]:
    """Return the entries of a list that has no problem."""
    found = convert(form, text, base_url=base_url)
    assert found.problems == []
    return [product.entry() for product in found.products]


# --- tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"url\n{A}x?b=1,2,3\n", [f"{A}x?b=1,2,3"]),
        (f"name,url\nx.nc,{A}get?bbox=1,2\n", [{"url": f"{A}get?bbox=1,2", "file": "x.nc"}]),
        (f"url,size\n{A}get?bbox=1,2,100\n", [{"url": f"{A}get?bbox=1,2", "size": 100}]),
        (f"url,md5\n{A}get?b=1,2,{MD5}\n", [{"url": f"{A}get?b=1,2", "checksum": f"md5:{MD5}"}]),
        (f"url,,\n{A}1,,\n", [f"{A}1"]),
        (f"url\n{A}1,,,\n", [f"{A}1"]),
        (f"url,file\n{A}x y.nc,x y.nc\n", [{"url": f"{A}x%20y.nc", "file": "x y.nc"}]),
        (f"url;file\r\n{A}1,2;a,b.nc\r\n", [{"url": f"{A}1,2", "file": "a,b.nc"}]),
        (f"url\tfile\n{A}1\ta b.nc\n", [{"url": f"{A}1", "file": "a b.nc"}]),
        (f"url|file\n{A}1|a.nc\n", [{"url": f"{A}1", "file": "a.nc"}]),
        (f"sep=;\r\nurl;file\r\n{A}1;a.nc\r\n", [{"url": f"{A}1", "file": "a.nc"}]),
        (f'"url";"a, b"\n{A}1;x\n', [f"{A}1"]),
        (f'url,note\n{A}1,"two\nlines, with ""quotes"""\n{A}2,x\n', [f"{A}1", f"{A}2"]),
        (f"\n\nURL\n\n{A}1\n", [f"{A}1"]),
        (f"Product Name;Download URL;File Size (bytes)\na.nc;{A}1;7\n", [{"url": f"{A}1", "file": "a.nc", "size": 7}]),
        (f"File Name,HREF,MD5 Sum\na.nc,{A}1,{MD5}\n", [{"url": f"{A}1", "file": "a.nc", "checksum": f"md5:{MD5}"}]),
        (f"download,url\nyes,{A}1\n", [f"{A}1"]),
        (f"link,Checksum\n{A}1,{SHA256.upper()}\n", [{"url": f"{A}1", "checksum": f"sha256:{SHA256}"}]),
        (f'url,size\n{A}1,"1,234,567"\n{A}2,5.0\n{A}3,12 B\n', [{"url": f"{A}1", "size": 1234567}, {"url": f"{A}2", "size": 5}, {"url": f"{A}3", "size": 12}]),
        (f"url,size\n{A}1,12.3 MB\n{A}2,1.5G\n", [f"{A}1", f"{A}2"]),
        (f"url,mirror\n{A}1,{A}m1 {A}m2\n", [{"url": f"{A}1", "mirrors": [f"{A}m1", f"{A}m2"]}]),
        ("url\nhttps://BÜCHER.example/1\n", ["https://xn--bcher-kva.example/1"]),
    ],
)  # fmt: skip
def test_a_table_gives_whole_urls_with_their_facts(text, expected):
    assert entries("csv", text) == expected


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("https://a.example.org/1,2.nc,x.nc", "3 cells where the header has 2"),
        ("s3://bucket/x,a.nc", "s3://"),
        ("ftp://h/x,a.nc", "ftp://"),
        (",a.nc", "nothing"),
        ("https://a.example.org/1,../x", "leaves"),
        ("https://a.example.org/1 https://a.example.org/2,a.nc", "http"),
        ("https://a.example.org/1 # old,a.nc", "http"),
        ("https://a b.example.org/1,a.nc", "http"),
        ('"https://a.example.org/1"x,a.nc', "not CSV"),
        ("https://a.example.org/1,OTHER.nc", "also that of line 2"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_the_others_stay(row, word):
    found = convert("csv", f"url,file\n{A}ok,other.nc\n{row}\n{A}ok2,ok2.nc\n")
    assert [product.urls[0] for product in found.products] == [f"{A}ok", f"{A}ok2"]
    assert [problem.line for problem in found.problems] == [3]
    assert word in found.problems[0].message


def test_columns_that_are_not_used_are_named():
    found = convert("csv", f"url,Size (MB),Tile,href,file\n{A}1,3.5,T32,{A}2,a.nc\n")
    assert found.warnings == ['columns that were not used: "Size (MB)", "Tile", "href"']
    assert found.products[0].size is None


@pytest.mark.parametrize("form", ["urls", "aria2"])
def test_a_url_with_blanks_is_encoded_and_other_schemes_are_named(form):
    found = convert(form, f"{A}x y.nc\ns3://b/x\n{A}2\nftp://h/y\n")
    assert [product.urls[0] for product in found.products] == [f"{A}x%20y.nc", f"{A}2"]
    assert [problem.line for problem in found.problems] == [2, 4]
    assert not found.is_wrong


def test_a_header_that_carries_a_key_is_not_written_to_a_manifest():
    found = convert("aria2", f"{A}1\n header=X-Api-Key: hush\n header=Range: bytes=0-\n header=Accept: */*\n")
    assert found.products[0].entry() == {"url": f"{A}1", "headers": {"Accept": "*/*"}}
    assert "X-Api-Key" in found.warnings[0]
    assert "hush" not in str(found)


# --- Metalink -------------------------------------------------------------------------------------------------------------


def metalink_3(*resources: str, name: str = "a.iso", more: str = "") -> str:
    return (
        '<?xml version="1.0"?><metalink version="3.0" xmlns="http://www.metalinker.org/"><files>'
        f'<file name="{name}">{more}<resources>{"".join(resources)}</resources></file></files></metalink>'
    )


@pytest.mark.parametrize(
    ("resources", "urls"),
    [
        ([f'<url type="bittorrent" preference="100">{A}a.iso.torrent</url>', f'<url type="http" preference="10">{A}a.iso</url>'], [f"{A}a.iso"]),
        ([f'<url type="bittorrent">{A}get/1</url>', f'<url type="https">{A}a.iso</url>'], [f"{A}a.iso"]),
        ([f"<url>{A}a.iso.torrent</url>", f"<url>{A}a.iso</url>"], [f"{A}a.iso"]),
        (['<url type="ftp" preference="90">ftp://h/a</url>', f'<url type="http" preference="20">{A}2</url>', f'<url type="http" preference="80">{A}1</url>'], [f"{A}1", f"{A}2"]),
        ([f'<url type="magnet">magnet:?xt=1</url><url type="rsync">rsync://h/a</url><url TYPE="x">{A}1</url>'], [f"{A}1"]),
    ],
)  # fmt: skip
def test_of_a_metalink_only_urls_of_the_file_itself_are_taken(resources, urls):
    found = convert("metalink", metalink_3(*resources))
    assert found.problems == []
    assert [product.urls for product in found.products] == [tuple(urls)]


@pytest.mark.parametrize(
    "resources",
    [
        [f'<url type="bittorrent">{A}a.iso.torrent</url>'],
        ['<url type="ftp">ftp://h/a.iso</url>'],
        [f'<metaurl mediatype="torrent">{A}a.iso.torrent</metaurl>'],
        [],
    ],
)
def test_a_metalink_file_without_a_usable_url_is_one_problem_that_names_it(resources):
    two = metalink_3(*resources).replace("</files>", f'<file name="b"><url>{A}b</url></file></files>')
    found = convert("metalink", two)
    assert [product.file for product in found.products] == ["b"]
    assert len(found.problems) == 1
    assert '"a.iso"' in found.problems[0].message


def test_several_faults_of_one_metalink_file_are_one_problem():
    found = convert("metalink", metalink_3("<url>s3://b/x</url>", name="../x", more="<size>many</size>"))
    found_too = convert("metalink", metalink_3(f"<url>{A}x</url>", name="../x", more="<size>many</size>"))
    assert (len(found.problems), len(found_too.problems)) == (1, 1)
    assert all(word in found_too.problems[0].message for word in ('"../x"', "leaves", "many"))


def test_a_metalink_4_keeps_priorities_metaurls_and_hashes_apart():
    text = f"""<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a.iso">
      <metaurl mediatype="torrent" priority="1">{A}a.iso.torrent</metaurl>
      <hash type="sha-512">{SHA512}</hash><hash type="md5">{MD5}</hash>
      <url priority="9">{A}9</url><url priority="2">{A}2</url><url>{A}last</url></file></metalink>"""
    (product,) = convert("metalink", text).products
    assert product.urls == (f"{A}2", f"{A}9", f"{A}last")
    assert [c.algorithm for c in product.checksums] == ["sha512", "md5"]


# --- OData and STAC -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("S2A_MSIL1C_X.SAFE", "application/octet-stream", "S2A_MSIL1C_X.SAFE.zip"),
        ("S3A_OL_1_X.SEN3", None, "S3A_OL_1_X.SEN3.zip"),
        ("S1A_OPER_AUX_POEORB_X.EOF", "application/octet-stream", "S1A_OPER_AUX_POEORB_X.EOF"),
        ("S1A_OPER_AUX_POEORB_X.EOF", None, "S1A_OPER_AUX_POEORB_X.EOF"),
        ("S1A_OPER_AUX_POEORB_X.EOF", "application/zip", "S1A_OPER_AUX_POEORB_X.EOF.zip"),
        ("S5P_OFFL_L2__X.nc", "application/x-netcdf", "S5P_OFFL_L2__X.nc"),
        ("S5P_OFFL_L2__X.nc", "application/zip", "S5P_OFFL_L2__X.nc.zip"),
        ("Copernicus_DSM_10_N46", None, "Copernicus_DSM_10_N46.zip"),
        ("MOD09.A2024.061", None, "MOD09.A2024.061.zip"),
        ("a.zip", "application/octet-stream", "a.zip"),
        ("a.tar.gz", None, "a.tar.gz"),
        ("a.tgz", "application/zip", "a.tgz"),
        ("a.tif", "image/tiff", "a.tif"),
    ],
)
def test_an_odata_product_is_named_by_its_name_and_the_catalogues_type(name, kind, file):
    text = json.dumps({"value": [{"Id": "1", "Name": name, "ContentType": kind}]})
    (product,) = convert("odata", text, base_url=BASE).products
    assert product.entry()["file"] == file


def test_two_odata_products_of_one_name_both_get_a_file():
    text = json.dumps(
        {"value": [{"Id": "1", "Name": "a.nc"}, {"Id": "2", "Name": "A.nc"}, {"Id": "3", "Name": "b.nc"}]}
    )
    assert [p.file for p in convert("odata", text, base_url=BASE).products] == ["1/a.nc", "2/A.nc", "b.nc"]


ITEM = {"id": "S2A", "assets": {"B02": {"href": f"{A}B02.tif"}}}
ODATA = {"value": [{"Id": "1", "Name": "a.nc"}]}


@pytest.mark.parametrize(
    ("form", "document", "said"),
    [
        ("odata", ODATA | {"@odata.nextLink": f"{A}?$skip=1"}, "1 of more"),
        ("odata", ODATA | {"@odata.count": 250, "@odata.nextLink": f"{A}?$skip=1"}, "1 of 250"),
        ("odata", ODATA | {"@odata.count": 2}, "1 of 2"),
        ("odata", ODATA | {"@odata.count": "20"}, "1 of 20"),
        ("odata", ODATA | {"@odata.count": 1}, None),
        ("odata", ODATA, None),
        ("stac", {"features": [ITEM], "links": [{"rel": "next", "href": f"{A}?p=2"}]}, "1 of more"),
        ("stac", {"features": [ITEM], "links": [{"rel": "next", "method": "POST", "body": {}}], "numberMatched": 412}, "1 of 412"),
        ("stac", {"features": [ITEM], "numberMatched": 412, "numberReturned": 1}, "1 of 412"),
        ("stac", {"features": [ITEM], "context": {"matched": 3, "returned": 1}}, "1 of 3"),
        ("stac", {"features": [ITEM], "numberMatched": 1, "links": [{"rel": "self", "href": A}, {"rel": "prev", "href": A}]}, None),
        ("stac", {"features": [ITEM], "numberMatched": None}, None),
    ],
)  # fmt: skip
def test_one_page_of_a_result_is_said_to_be_one(form, document, said):
    found = convert(form, json.dumps(document), base_url=BASE)
    assert len(found.products) == 1
    assert (said in found.incomplete) if said else (found.incomplete == "")


def stac(*items: dict, **more: object) -> str:
    return json.dumps({"type": "FeatureCollection", "features": list(items), **more})


NODES = "https://download.example/odata/v1/Products(1-2)/Nodes(S2C.SAFE)/Nodes(GRANULE)"


@pytest.mark.parametrize(
    ("assets", "files"),
    [
        ({"B02": {"href": f"{NODES}/Nodes(B02.jp2)/$value"}, "B03": {"href": f"{NODES}/Nodes(B03.jp2)/$value"}}, ["i/B02.jp2", "i/B03.jp2"]),
        ({"a": {"href": f"{NODES}/Nodes(R10m)/Nodes(B02.jp2)/$value"}, "b": {"href": f"{NODES}/Nodes(R20m)/Nodes(B02.jp2)/$value"}}, ["i/R10m/B02.jp2", "i/R20m/B02.jp2"]),
        ({"a": {"href": f"{NODES}/Nodes(B%2002.jp2)/$value"}}, ["i/B 02.jp2"]),
        ({"a": {"href": f"{A}R10m/B02.tif"}, "b": {"href": f"{A}R20m/B02.tif"}, "c": {"href": f"{A}c.tif"}}, ["i/R10m/B02.tif", "i/R20m/B02.tif", "i/c.tif"]),
        ({"a": {"href": f"{A}get?b=1"}, "b": {"href": f"{A}get?b=2"}}, ["i/a", "i/b"]),
        ({"a": {"href": f"{A}get.nc?b=1"}, "b": {"href": f"{A}get.nc?b=2"}}, ["i/a.nc", "i/b.nc"]),
        ({"a": {"href": f"{A}x/"}}, ["i/x"]),
        ({"a": {"href": f"{A}1", "file:local_path": "i.SAFE/R10m/B02.jp2"}, "b": {"href": f"{A}2", "file:local_path": "R20m/B02.jp2"}}, ["i/R10m/B02.jp2", "i/R20m/B02.jp2"]),
        ({"a": {"href": f"{A}1", "file:local_path": "../../x.jp2"}}, ["i/1"]),
        ({"a": {"href": "s3://b/x/B02.jp2", "alternate": {"https": {"href": f"{NODES}/Nodes(B02.jp2)/$value"}}}}, ["i/B02.jp2"]),
        ({"Product": {"href": "https://d.example/odata/v1/Products(1)/$value", "type": "application/zip"}}, ["i/Product.zip"]),
        ({"a": {"href": f"{A}b02.tif"}, "b": {"href": f"{A}x/B02.TIF"}}, ["i/b02.tif", "i/x/B02.TIF"]),
    ],
)  # fmt: skip
def test_each_asset_of_an_item_gets_a_file_of_its_own(assets, files):
    found = convert("stac", stac({"id": "i", "assets": assets}))
    assert found.problems == []
    assert sorted(product.file or "" for product in found.products) == sorted(files)


def test_items_of_one_id_in_two_collections_have_folders_of_their_own():
    two = [ITEM | {"collection": "l1c"}, ITEM | {"collection": "l2a", "assets": {"B02": {"href": f"{A}2/B02.tif"}}}]
    found = convert("stac", stac(*two, ITEM | {"id": "S2B"}))
    assert [product.file for product in found.products] == ["l1c/S2A/B02.tif", "l2a/S2A/B02.tif", "S2B/B02.tif"]


@pytest.mark.parametrize(
    ("item_links", "links", "url"),
    [
        ([{"rel": "self", "href": f"{A}items/S2A.json"}], [], f"{A}items/data/B02.tif"),
        ([], [{"rel": "self", "href": f"{A}search/all.json"}], f"{A}search/data/B02.tif"),
        ([{"rel": "self", "href": "./S2A.json"}], [{"rel": "self", "href": f"{A}s/x"}], f"{A}s/data/B02.tif"),
    ],
)
def test_a_relative_link_refers_to_the_item_itself(item_links, links, url):
    item = {"id": "S2A", "links": item_links, "assets": {"B02": {"href": "./data/B02.tif"}}}
    found = convert("stac", stac(item, links=links))
    assert [product.urls for product in found.products] == [(url,)]
    assert [product.urls[0] for product in convert("stac", stac(item), base_url=BASE).products] == [
        f"{BASE}data/B02.tif"
    ]


@pytest.mark.parametrize(
    ("document", "word"),
    [
        (stac({"id": "i", "assets": {"B02": {"href": "./B02.tif"}}}), "B02"),
        (stac({"id": "i", "assets": {"B02": {"href": "s3://b/B02.tif"}}}), "B02"),
        (stac({"id": "i", "assets": {}}), "no assets"),
        (stac(), "no items"),
    ],
)
def test_a_result_without_a_usable_asset_is_a_problem(document, word):
    found = convert("stac", document)
    assert found.products == []
    assert word in found.problems[0].message


# --- checksum lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "checksum"),
    [
        (f"{SHA256}  a.nc", "a.nc", f"sha256:{SHA256}"),
        (f"{SHA256} *a.nc", "a.nc", f"sha256:{SHA256}"),
        (f"{SHA256}\ta.nc", "a.nc", f"sha256:{SHA256}"),
        (f"{SHA256} a.nc", "a.nc", f"sha256:{SHA256}"),
        (f"{SHA256}   a.nc", "a.nc", f"sha256:{SHA256}"),
        (f"{SHA256}\t*a.nc", "a.nc", f"sha256:{SHA256}"),
        (f"{SHA256.upper()}  a.nc\r", "a.nc", f"sha256:{SHA256}"),
        (f"  {MD5}  ./x/a b.nc", "x/a b.nc", f"md5:{MD5}"),
        (f"SHA256(a.nc)= {SHA256}", "a.nc", f"sha256:{SHA256}"),
        (f"SHA2-256(a.nc)= {SHA256}", "a.nc", f"sha256:{SHA256}"),
        (f"SHA256 (a.nc) = {SHA256.upper()}", "a.nc", f"sha256:{SHA256}"),
        (f"SHA512 (a (1).nc) = {SHA512}", "a (1).nc", f"sha512:{SHA512}"),
        (f"MD5 (a.nc) = {MD5}", "a.nc", f"md5:{MD5}"),
        (f"sha-256 (a.nc)={SHA256}", "a.nc", f"sha256:{SHA256}"),
        (f"BLAKE3 (a.nc) = {SHA256}", "a.nc", f"blake3:{SHA256}"),
        (f"\\{SHA256}  a\\\\nb.nc", "a\\nb.nc", f"sha256:{SHA256}"),
        (f"\\SHA256 (a\\\\b.nc) = {SHA256}", "a\\b.nc", f"sha256:{SHA256}"),
        (f"{SHA256}  a%20b#1?.nc", "a%20b#1?.nc", f"sha256:{SHA256}"),
        (f"{SHA256}  a\u2028b.nc".replace("\u2028", "\u3000"), "a\u3000b.nc", f"sha256:{SHA256}"),
    ],
)  # fmt: skip
def test_each_form_of_a_checksum_line_is_read(line, name, checksum):
    found = convert("sha256sums", f"# made by hand\n; too\n{line}\n", base_url=BASE)
    assert found.problems == []
    assert [(product.file, str(product.checksums[0])) for product in found.products] == [(name, checksum)]


def test_a_name_of_a_checksum_list_is_encoded_in_its_url():
    (product,) = convert("sha256sums", f"{SHA256}  a b%20#1?ü:c.nc\n", base_url=BASE).products
    assert product.urls == (f"{BASE}a%20b%2520%231%3F%C3%BC%3Ac.nc",)


@pytest.mark.parametrize(
    "line", ["nonsense", f"{SHA256}", f"SHA3-256 (a) = {SHA256}", f"{'0' * 50}  a", f"{SHA256}  ../a"]
)
def test_a_line_of_a_checksum_list_that_cannot_be_used_is_named_and_the_others_stay(line):
    found = convert("sha256sums", f"{SHA256}  ok.nc\n{line}\n{MD5}  ok2.nc\n", base_url=BASE)
    assert [product.file for product in found.products] == ["ok.nc", "ok2.nc"]
    assert [problem.line for problem in found.problems] == [2]
