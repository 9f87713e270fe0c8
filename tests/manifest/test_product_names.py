"""Names of products whose URLs end in one name: told apart by path, host or query, without secrets, alike in every run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.filenames import check_relative, fold
from bulkdl.core.urls import Url
from bulkdl.manifest.product_names import names_apart
from tests.manifest.reading import read

A = "https://a.example/"


def names(*urls: str) -> list[str]:
    return [product.expected_file for product in read("\n".join(urls)).products]


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        ((f"{A}x/1.nc", f"{A}x/2.nc"), ["1.nc", "2.nc"]),
        ((f"{A}e1/B04.tif", f"{A}e2/B04.tif"), ["e1/B04.tif", "e2/B04.tif"]),
        ((f"{A}e1/r/B04.tif", f"{A}e2/r/B04.tif"), ["e1/r/B04.tif", "e2/r/B04.tif"]),
        ((f"{A}e1/B04.tif", f"{A}e2/b04.TIF", f"{A}x/c"), ["e1/B04.tif", "e2/b04.TIF", "c"]),
        ((f"{A}B04.tif", f"{A}x/B04.tif"), ["B04.tif", "x/B04.tif"]),
        ((f"{A}e%201/B.tif", f"{A}e%202/B%2Etif"), ["e 1/B.tif", "e 2/B.tif"]),
        ((f"{A}1/", f"{A}2/"), ["1", "2"]),
        ((f"{A}x/1/", f"{A}y/1/"), ["x/1", "y/1"]),
        ((f"{A}Products(1)/$value", f"{A}Products(2)/$value"), ["Products(1)/$value", "Products(2)/$value"]),
        ((f"{A}x/B.tif", "https://b.example/x/B.tif"), ["a.example/B.tif", "b.example/B.tif"]),
        (("https://a.example", "https://b.example:8443/"), ["a.example/download", "b.example_8443/download"]),
        ((f"{A}../x/B.tif", f"{A}y/B.tif"), ["x/B.tif", "y/B.tif"]),
        ((f"{A}.bulkdl/B.tif", f"{A}con/B.tif"), ["_.bulkdl/B.tif", "_con/B.tif"]),
        ((f"{A}get?id=1", f"{A}get?id=2"), ["get_id=1", "get_id=2"]),
        ((f"{A}get?v=3&id=1&f=nc", f"{A}get?v=3&id=2&f=nc"), ["get_id=1", "get_id=2"]),
        ((f"{A}get?1", f"{A}get?2"), ["get_1", "get_2"]),
        ((f"{A}get", f"{A}get?id=2"), ["get", "get_id=2"]),
        ((f"{A}a.nc?t=0", f"{A}a.nc?t=1"), ["a_t=0.nc", "a_t=1.nc"]),
        ((f"{A}a.SAFE.zip?t=0", f"{A}a.SAFE.zip?t=1"), ["a_t=0.SAFE.zip", "a_t=1.SAFE.zip"]),
        ((f"{A}get.php?file=x/a.nc", f"{A}get.php?file=x/b.nc"), ["get.php_file=x_a.nc", "get.php_file=x_b.nc"]),
        ((f"{A}get?id=1&b=2", f"{A}get?b=3&id=2"), ["get_id=1_b=2", "get_b=3_id=2"]),
        ((f"{A}get?id=1&id=2", f"{A}get?id=1&id=3"), ["get_id=1,2", "get_id=1,3"]),
        ((f"{A}e1/get?id=1", f"{A}e1/get?id=2", f"{A}e2/get?id=1"), ["e1/get_id=1", "e1/get_id=2", "e2/get"]),
        (("https://a.example/g?i=1", "https://b.example/g?i=1", "https://b.example/g?i=2"), ["a.example/g", "b.example/g_i=1", "b.example/g_i=2"]),
        ((f"{A}get?id=1&token=hushhush", f"{A}get?id=2&token=hushhash"), ["get_id=1", "get_id=2"]),
        ((f"{A}get", f"{A}get/get"), ["get", "get_get"]),
    ],
)  # fmt: skip
def test_the_name_has_as_much_of_the_url_as_tells_it_apart(urls, expected):
    assert names(*urls) == expected
    assert names(*reversed(urls)) == expected[::-1]


@pytest.mark.parametrize(
    "query",
    [
        "token={}", "access_token={}", "sig={}", "Signature={}", "X-Amz-Signature={}", "x-amz-credential={}", "X-Goog-Signature={}",
        "apikey={}", "api_key={}", "api-key={}", "password={}", "passwd={}", "client_secret={}", "auth={}", "se={}", "Expires={}",
        "Key-Pair-Id={}", "AWSAccessKeyId={}", "JSESSIONID={}", "q=eyJhbGciOiJIUzI1{}", "q=Ab{}Cd3EfGh1IjKl2MnOpQr", "eyJhbGciOiJIUzI1{}",
    ],
)  # fmt: skip
def test_a_secret_of_the_query_never_becomes_part_of_a_name(query):
    found = names(f"{A}get?{query.format('hush1hush')}", f"{A}get?{query.format('hush2hush')}")
    assert len(set(found)) == 2
    assert all(name.startswith("get_") and len(name) == len("get_") + 8 for name in found)


def test_values_that_differ_in_case_alone_get_names_that_differ_on_every_system():
    assert len({fold(name) for name in names(f"{A}get?id=a", f"{A}get?id=A", f"{A}get?id=%41")}) == 3


def test_a_file_of_the_manifest_keeps_its_name_and_the_others_avoid_it():
    found = read(f"products:\n- {A}e1/b\n- {A}e2/b\n- {{url: {A}x, file: e1/b}}\n- {{url: {A}y, file: e2}}\n").products
    assert [p.expected_file for p in found][2:] == ["e1/b", "e2"]
    assert len({fold(p.expected_file) for p in found}) == 4
    assert found[1].expected_file == "e2_b"


def test_a_long_query_gives_a_name_of_bounded_length():
    found = names(f"{A}get?q={'x' * 900}1", f"{A}get?q={'x' * 900}2")
    assert len(set(found)) == 2
    assert max(map(len, found)) <= 255


WORDS = st.sampled_from(["a", "A", "b", "get", "a.nc", "%2e%2e", "", "x%20", "con", "e\u0301"])
URLS = st.builds(
    lambda host, path, query: f"https://{host}/{'/'.join(path)}{f'?{query}' if query else ''}",
    st.sampled_from(["a.example", "b.example:81"]),
    st.lists(WORDS, max_size=4),
    st.sampled_from(["", "id=1", "id=2", "id=1&x=1", "1", "token=hush", "token=hush2"]),
)


@given(st.lists(URLS, max_size=12, unique=True))
def test_any_urls_get_safe_names_that_are_all_different(texts):
    urls = [Url(text) for text in texts]
    apart = names_apart(urls)
    found = [apart.get(i) or read(text).products[0].expected_file for i, text in enumerate(texts)]
    assert len({fold(name) for name in found}) == len(found)
    assert [check_relative(name, windows=True) for name in found] == [None] * len(found)
    assert "hush" not in "".join(found)
