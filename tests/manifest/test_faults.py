"""A wrong manifest reports all problems at once, each with its position, what was expected and what was found."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkdl.core.errors import ManifestError
from bulkdl.manifest.loader import from_mapping
from tests.effort import effort
from tests.manifest.reading import problem, problems, read

P = "products: [https://x.example/a]\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("products:\n- url: https://x.example/a\n  chekcsum: x\n", '3:3: unknown key "chekcsum" of a product; did you mean "checksum"?'),
        ("products:\n- url: https://x.example/a\n  md5: x\n", '3:3: unknown key "md5" of a product; did you mean "checksum"?'),
        ("prodcuts: []\nproducts: []", '1:1: unknown key "prodcuts" of the manifest; did you mean "products"?'),
        ("version: 1\n", "1:1: the manifest needs the key `products`"),
        ("products:\n- size: 3\n", "2:3: a product needs the key `url`"),
        ("products:\n", "1:10: `products`: expected a list of URLs or products, found nothing"),
        ("version: 2\n" + P, "1:10: `version`: expected 1, the one version of this format, found the number 2"),
        ("products:\n- 5\n", "2:3: expected a URL, or a mapping with the key `url`, found the number 5"),
        ("products: [{url: https://x.example/a, file: 007}]", "1:45: `file`: expected a relative path such as 2024/S2A.zip, found the number 7; put it in quotes"),
        ("products: [{url: https://x.example/a, extract: no}]", '1:48: `extract`: expected true or false, found "no"; write false'),
        ("products: [{url: https://x.example/a, size: -1}]", "1:45: `size`: expected a number of bytes such as 734003200, found the number -1"),
        ("settings: {until: 25:00}\n" + P, '1:19: `until`: expected a time of day such as 06:30, found "25:00"'),
        ("settings: {segments: some}\n" + P, '1:22: `segments`: expected `auto` or a whole number from 1 to 64, found "some"'),
        ("just text\n", '1:1: expected a mapping with the key `products`, or a plain list of URLs, one a line, found "just text"'),
        ("- https://x.example/a\n", "1:1: expected a mapping with the key `products`, or a plain list of URLs, one a line, found a list"),
        ("accounts: {a: {provider: terascope}}\n" + P, '1:26: unknown provider "terascope"; did you mean "terrascope"?'),
        ("accounts: {a: {username: me}}\n" + P, '1:15: the account "a" needs `auth` (oidc, basic, bearer, header or none) or a `provider`'),
        ("accounts: {a: {auth: oidc}}\n" + P, '1:15: the account "a" needs a `token_url`, or a `provider` that has one'),
        ("accounts: {own: {auth: none}}\ndefaults: {account: onw}\n" + P, '2:21: unknown account "onw"; did you mean "own"?'),
        ("products: [{url: https://x.example/a, account: me}]", '1:48: unknown account "me"; add it under `accounts`, or write null for none'),
        ("destination: ${NOPE}/x\n" + P, "1:14: the environment variable NOPE is not set"),
        ("destination: ${a-b}\n" + P, "1:14: expected ${NAME} with letters, digits and _ in NAME, found another form of ${...}"),
        ("products:\n- {url: https://x.example/a, file: ../x}\n", '2:36: `file`: "../x" leaves the destination by `..`; expected a path below it'),
        ("products:\n- {url: https://x.example/1, file: A}\n- {url: https://x.example/2, file: a}\n", '3:36: two products for one file: "a" is also the file of line 2 (as "A", the same file on some systems)'),
        ("products:\n- {url: https://x.example/1, file: 'a\\b'}\n- {url: https://x.example/2, file: a/b}\n", '3:36: two products for one file: "a/b" is also the file of line 2 (as "a\\b", the same file on some systems)'),
        ("products:\n- {url: https://x.example/1, file: d./z}\n- {url: https://x.example/2, file: d/z}\n", '3:36: two products for one file: "d/z" is also the file of line 2 (as "d./z", the same file on some systems)'),
        ("products:\n- {url: https://x.example/1, file: 'a\\b'}\n- {url: https://x.example/2, file: a}\n", '3:36: "a" is a folder in the path of the product in line 2'),
        ("products:\n- {url: https://x.example/1, file: a/./b}\n- {url: https://x.example/2, file: a//b}\n", '3:36: two products for one file: "a/b" is also the file of line 2'),
        ("products:\n- {url: https://x.example/1, file: a/b/c}\n- {url: https://x.example/2, file: A/b}\n", '3:36: "A/b" is a folder in the path of the product in line 2'),
        ("products:\n- {url: https://x.example/1, file: a}\n- {url: https://x.example/2, file: a/b/c}\n", '3:36: "a" is the file of line 2, so it cannot be a folder in this path'),
        ("products: [{url: https://x.example/1, checksum: md5:00}]", "1:49: `checksum`: md5 has 32 hexadecimal digits, found 2"),
        ("products: [{url: https://x.example/1, checksum: crc32:00}]", '1:49: `checksum`: expected md5, sha1, sha256, sha512 or blake3, found the algorithm "crc32"'),
        ("products: [{url: https://x.example/1, headers: {Range: bytes=0-}}]", "1:49: the header Range is set by bulkdl itself; remove it"),
        ("products: [{url: https://x.example/1, headers: {X-A: '${T}'}}]", "1:49: ${...} is not replaced in headers (found in X-A); secrets belong to an account"),
        ("products: ['https://\uff41.example/x']", '1:12: a host name without an ASCII form (IDNA 2008), found "\uff41.example" (in "https://\uff41.example/x")'),
        ("products: ['https://x.example/a b']", '1:12: expected an absolute http:// or https:// URL, found "https://x.example/a b" (white space in a URL)'),
    ],
)  # fmt: skip
def test_a_problem_is_one_message_with_its_position(text, line):
    assert problem(text) == f"m.yaml:{line}"


@pytest.mark.parametrize("host", ["*", "*.", "https://x.example", "x.example/a", "a b", "x.example:0", "x:99999", "[::1", "*.x.example:80", "a.*.b", "me@x.example", ""])  # fmt: skip
def test_an_invalid_entry_of_hosts_is_refused(host):
    assert "host" in problem(f"accounts: {{a: {{auth: basic, hosts: ['{host}']}}}}\n{P}")


@pytest.mark.parametrize(
    "text",
    [
        "accounts: {a: {auth: basic, password: hunter2}}",
        "accounts: {a: {auth: bearer, token: hunter2}}",
        "accounts: {a: {auth: bearer, token: 'Bearer hunter2'}}",
        "accounts: {a: {provider: cdse, totp_secret: 'hunter2 hunter2'}}",
        "accounts: {a: {provider: cdse, client_secret: 'hunter2${'}}",
        "accounts: {a: {provider: cdse, password: ['hunter2']}}",
        "accounts: {a: {provider: cdse, password: {a: 'hunter2'}}}",
        "accounts: {a: {provider: cdse, password: 'hunter2${a-b}${C}'}}",
        "accounts: {a: {auth: oidc, token_url: 'https://me:hunter2@x.example/t'}}",
        "defaults: {headers: {Authorization: Bearer hunter2}}",
        "defaults: {headers: {cookie: hunter2}}",
        "defaults: {headers: {Proxy-Authorization: hunter2}}",
        "x-a: 1\nx-b: &p {url: 'https://me:hunter2@x.example/a'}\ndefaults: {headers: {Authorization : hunter2}}",
    ],
)
def test_a_literal_secret_is_refused_and_never_shown(text):
    line = problem(f"{text}\n{P}")
    assert "hunter2" not in line
    assert any(way in line for way in ("${NAME}", "account"))


def test_a_number_as_a_password_is_not_shown_either():
    assert "12345" not in problem(f"accounts: {{a: {{auth: basic, password: 12345}}}}\n{P}")


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@x.example/a",
        "ftp://me:hunter2@x.example/a",
        "https://x.example:x/a?token=hunter2",
        "//me:hunter2@x/a",
    ],
)
def test_a_secret_in_a_url_is_never_shown(url):
    for text in (
        f"products: ['{url}']",
        f"products: [{{url: '{url}'}}]",
        f"products: [{{url: https://a.example, mirrors: ['{url}']}}]",
    ):
        line = problem(text)
        assert "hunter2" not in line


@pytest.mark.parametrize(
    "line",
    [
        "  header=Authorization: Bearer eyJhbGciOi.hunter2.x",
        "hunter2",
        "Cookie: sid=hunter2",
        "-H 'Authorization: Basic am86aHVudGVyMg== hunter2'",
        "me:hunter2@x.example/a",
        "x.example/a?token=hunter2",
        "user = me:hunter2",
        "https://x.example/a -H 'Authorization: Bearer hunter2'",
        "https://x.example/a\theader=X-Api-Key: hunter2",
        "ftp://x.example/token/hunter2",
        "s3://AKIAhunter2@bucket/x",
        "https://x .example/Ab1hunter2Cd3Ef4Gh5Ij6",
    ],
)
def test_a_line_of_a_list_that_is_no_url_is_never_quoted_where_it_may_hold_a_secret(line):
    assert "hunter2" not in problem(f"https://x.example/ok\n{line}\n")


@pytest.mark.parametrize(
    "text",
    [
        "accounts: {a: hunter2}",
        "accounts: [hunter2]",
        "accounts: {a: {provider: cdse, password: *hunter2}}",
        "accounts: {a: {provider: cdse, password: !hunter2 x}}",
        "accounts: {a: {provider: cdse, 'token: hunter2': x}}",
        "accounts: {a: {auth: basic, hosts: ['me:hunter2@x.example']}}",
        "accounts: {a: {auth: basic, 'password hunter2': 1, 'password hunter2': 2}}",
        "defaults: {account: 'password=hunter2'}",
        "defaults: {headers: {'Authorization: Bearer hunter2': x}}",
        "defaults: {headers: 'Authorization: Bearer hunter2'}",
        "defaults: {headers: {X: [hunter2]}}",
        "x-a: 1\n'Authorization: Bearer hunter2': 1",
        "token=hunter2: 1",
    ],
)
def test_a_secret_in_the_wrong_place_is_never_shown(text):
    assert "hunter2" not in "\n".join(problems(f"{text}\n{P}"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("accounts: {a: {auth: basic, hosts: ['https://auth.example.org']}}", '"https://auth.example.org"'),
        ("accounts: {a: {auth: basic, hosts: ['token.example.org:x']}}", '"token.example.org:x"'),
        ("accounts: {a: {auth: basic, token_ulr: x}}", 'did you mean "token_url"?'),
        ("accounts: {a: {auth: basic, passwd: x}}", '"passwd"'),
        ("settings: {until: S2A_MSIL2A_20240101T101031_N0510_R022_T32TQM}", "S2A_MSIL2A"),
        ("defaults: {account: cookies}", '"cookies"'),
    ],
)
def test_what_is_no_secret_is_shown(text, shown):
    assert shown in "\n".join(problems(f"{text}\n{P}"))


def test_all_problems_are_reported_together_in_the_order_of_the_file():
    lines = problems(
        "settings: {workers: 0}\n"
        "accounts: {a: {auth: basic, password: p}}\n"
        "defaults: {account: b}\n"
        "products:\n- ftp://x\n- {url: https://x.example/a, file: /x, size: x, account: c}\n- {}\n"
    )
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3", "5", "6", "6", "6", "7"]


def test_of_a_thousand_problems_the_first_hundred_are_printed_and_the_rest_counted():
    lines = problems("products:\n" + "- ftp://x\n" * 1000)
    assert len(lines) == 101
    assert lines[99].startswith("m.yaml:101:3:")
    assert lines[100].endswith("… and 900 more problems")


def test_problems_beyond_the_limit_are_counted_without_a_message():
    lines = problems("products:\n" + "- {}\n" * 20_000)
    assert lines[-1].endswith("… and 19900 more problems")


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("a: [1\nb: 2", "2:2", "not YAML"),
        ("a:\n\t- b", "2:1", "tab"),
        ("accounts: {a: {auth: basic, username: ${U}, password: ${P}}}", "1:40", "put ${NAME}, and"),
        ("accounts: {a: {hosts: [${U}]}}", "1:25", "in quotes"),
        ("accounts:\n  a: {auth: basic,\n   password: x${P}y}", "3:16", "put ${NAME}"),
        ("a: b: c", "1:5", "indentation"),
        ("products: 'abc", "1:15", "quoted"),
        ("products: []\nproducts: []", "2:1", 'duplicate key "products"; first used in line 1'),
        ("products: [{url: https://x.example/a, url: https://x.example/b}]", "1:39", "duplicate key"),
        ("products: []\n---\nproducts: []", "2:1", "second document"),
        ("products: !!python/object/apply:os.system [ls]", "1:11", "!!python/object/apply:os.system is not allowed"),
        ("products: [!x https://x.example/a]", "1:12", "a tag (!) is not allowed"),
        ("products: [*a]", "1:12", "refers to no earlier anchor"),
        ("? [a]\n: b", "1:3", "expected a key"),
        (b"products:\n- caf\xe9\n", "2:6", "not UTF-8 text (byte 0xe9)"),
        (b"\x1f\x8b\x08\x00", "1:2", "UTF-8"),
        (b"\xff\xfe\x00\x00p", "1:1", "UTF-32"),
        (b"products:\n- a\x00b\n", "2:4", "control character (U+0000)"),
        ("products:\n- a\x1bb\n", "2:4", "control character (U+001B)"),
        ("products:\n- é\x9bb\n", "2:4", "control character (U+009B)"),
        ("products: " + "[" * 60 + "]" * 60, "1:60", "nested more than 50"),
        ('products: ["\\uD800"]', "1:15", "not YAML"),
    ],
)
def test_a_file_that_is_not_a_manifest_gives_a_clear_error(text, place, word):
    lines = [line for line in problems(text) if word in line]
    assert lines
    assert lines[0].startswith(f"m.yaml:{place}: ")


@pytest.mark.parametrize(
    "text", ["products: " + "[" * 5000, "products:\n" + "- " * 5000, "? " * 5000], ids=["flow", "block", "keys"]
)
def test_nesting_beyond_what_the_yaml_library_reads_is_the_same_error(text):
    """libyaml reads ahead: 0.2.6 and newer stop at their own limit before they deliver the level that is too deep."""
    assert any(line.endswith("values are nested more than 50 levels deep") for line in problems(text))


BOMB = "x-a: &a0 [l, l, l, l, l, l, l, l, l]\n" + "".join(
    f"x-{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def test_aliases_that_multiply_are_refused_without_using_memory():
    tracemalloc.start()
    line = problem(BOMB + "products: [*a11]\n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "aliases expand" in line
    assert peak < 20 * 1024 * 1024


def test_aliases_cannot_nest_deeper_than_values_may():
    chain = "x-0: &a0 [1]\n" + "".join(f"x-{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60))
    assert "nested more than 50" in problem(chain + P)


def test_an_alias_to_itself_is_refused():
    assert "refers to no earlier anchor" in problems("x-a: &a [*a]\n" + P)[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_windows_line_ends_are_fine(encoding, end):
    text = end.join(["destination: é", "products:", "- https://x.example/a", "- ftp://x", ""])
    assert problem(text.encode(encoding)).startswith("m.yaml:4:3:")


def outcome(read_it):
    """Return the manifest, or the lines of the error; any other exception is a bug."""
    try:
        return read_it()
    except ManifestError as error:
        return error.lines()


@settings(max_examples=effort(40, 300), deadline=None)
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80), st.text("ab:-[]{}&*!|>%@,?# \n\t'\"", max_size=80)))
def test_any_input_is_a_manifest_or_a_manifest_error(text):
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    assert outcome(lambda: read(b"products: " + text))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "file", "auth", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["version", "destination", "settings", "accounts", "defaults", "products"])


@settings(max_examples=effort(40, 300), deadline=None)
@given(st.dictionaries(KEYS, VALUES | st.lists(VALUES, max_size=3), max_size=6))
def test_any_values_under_known_keys_are_a_manifest_or_a_manifest_error(data):
    assert outcome(lambda: from_mapping(data, environ={}))
