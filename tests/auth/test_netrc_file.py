"""`.netrc` is read as curl reads it; what it cannot read costs one word, not the file."""

from __future__ import annotations

import pytest

from bulkdl.auth.netrc_file import parse_netrc


def found(text, host="a.example", login=None):
    entry = parse_netrc(text if isinstance(text, bytes) else text.encode()).find([host], login)
    return None if entry is None else (entry.login, entry.password.reveal())


@pytest.mark.parametrize(
    ("written", "password"),
    [
        (r"pa\ss#1", r"pa\ss#1"),
        ("#1", "#1"),
        ("p#w", "p#w"),
        ("""p'w"x""", """p'w"x"""),
        ("n%trc", "n%trc"),
        (r'"pa\\ss"', r"pa\ss"),
        (r'"a\"b"', 'a"b'),
        (r'"a\nb\rc\td"', "a\nb\rc\td"),
        (r'"a\x b"', "ax b"),
        ('"with blanks # and more"', "with blanks # and more"),
        (r'"end\\"', "end\\"),
        ("'quoted'", "'quoted'"),
        ("pässwörd€", "pässwörd€"),
        ("machine", "machine"),
        ("default", "default"),
        ("macdef", "macdef"),
    ],
)
def test_a_password_is_the_word_as_curl_reads_it(written, password):
    text = f"machine b.example login x password y\nmachine a.example login u password {written}\nmachine c login z password q\n"
    assert found(text) == ("u", password)
    assert found(text, "c") == ("z", "q")
    assert parse_netrc(text.encode()).bad_lines == ()


@pytest.mark.parametrize(
    "text",
    [
        "machine a.example\n\tlogin u\n\tpassword p\n",
        "machine a.example login u password p",
        "machine\na.example\nlogin\nu\npassword\np\n",
        "MACHINE A.Example LOGIN u PassWord p",
        "machine a.example\r\nlogin u\r\npassword p\r\n",
        "machine a.example\rlogin u\rpassword p\r",
        "machine a.example password p login u",
        "machine a.example account login login u password p",
        "machine a.example port 443 protocol https login u password p",
        "# machine a.example login no password no\n  \t# comment\nmachine a.example login u password p # password no\n",
        "machine a.example login u password p\n# comment\nmachine a.example login v password q\n",
        "machine a.example. login u password p",
        'machine "a.example" login "u" "password" "p"',
        "\ufeffmachine a.example login u password p",
        "machine a.example login u password p".encode("utf-16"),
        b"\xfe\xff" + "machine a.example login u password p".encode("utf-16-be"),
        "macdef init\nmachine a.example login no password no\n\nmachine a.example login u password p",
        "machine b login x password y\nmacdef init\ncd /pub # password\nbin\n \t\nmachine a.example login u password p",
        "macdef all\r\nmachine a.example login no password no\r\n\r\nmachine a.example login u password p",
        b"machine b login x password \xe4\xff\nmachine a.example login u password p",
        'machine b login x password "open\nmachine a.example login u password p',
        "machine a.example login u pasword no password p",
        "word machine a.example login u password p",
        "machine b.example login x word password y\nmachine a.example login u password p",
        "default login d password d\nmachine a.example login u password p",
        "machine a.example login u\nmachine a.example login u password p",
        'machine a.example login u password ""\nmachine a.example login u password p',
    ],
)
def test_an_entry_is_found_however_it_is_written(text):
    assert found(text) == ("u", "p")


SEVERAL = "machine a.example login u password 1 machine a.example login v password 2 machine a.example password 3"


@pytest.mark.parametrize(
    ("text", "login", "expected"),
    [
        (SEVERAL, None, ("u", "1")),
        (SEVERAL, "u", ("u", "1")),
        (SEVERAL, "v", ("v", "2")),
        (SEVERAL, "w", (None, "3")),
        (SEVERAL, "V", (None, "3")),
        ("machine a.example password 3 login u", "u", ("u", "3")),
        ("machine a.example login u password 1 machine a.example login u password 2", "u", ("u", "1")),
        ("machine a.example login u password 1", "v", None),
        ("machine a.example login u password 1 default login v password 2", "v", ("v", "2")),
        ("machine a.example login u password 1 default password 2", "v", (None, "2")),
        ("machine a.example login u password 1 default login v password 2", "u", ("u", "1")),
        ("machine b.example login u password 1 default login v password 2", None, ("v", "2")),
        ("machine b.example login u password 1", None, None),
        ("machine a.example login u", "u", None),
        ("machine a.example password 3", None, (None, "3")),
        ("", None, None),
    ],
)
def test_of_several_entries_the_one_with_the_login_counts(text, login, expected):
    assert found(text, login=login) == expected


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("[::1]", "::1"),
        ("::1", "[::1]"),
        ("[0:0::1]", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("A.EXAMPLE", "a.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_host_is_the_same_in_every_spelling(written, host):
    assert found(f"machine {written} login u password p", host) == ("u", "p")
    assert found(f"machine {written} login u password p", "other.example") is None


def test_the_hosts_are_tried_in_their_order_and_the_default_is_the_last():
    netrc = parse_netrc(b"default login d password d machine b login b password b machine a login a password a")
    assert netrc.find(["a", "b"]).login == "a"
    assert netrc.find(["x", "b"]).login == "b"
    assert netrc.find(["x", "y"]).login == "d"
    assert netrc.find([]) is None


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("machine a login u password p\n", ()),
        ("machine a login u password p # of work, until May\n# password\n\n", ()),
        ("machine b login u # of work\n password p\n", (1,)),
        ("machine b password p note\n login u note\n", (1,)),
        ("machine a login u\npasword hunter2\n", (2,)),
        ('machine a login u password "hunter2\n', (1,)),
        (r'machine a login u password "hunter2\"' + "\n", (1,)),
        ("one two three\n\nfour\n", (1, 3)),
        (b"machine a login u password hunter2\xe4\n", (1,)),
    ],
)
def test_a_line_that_cannot_be_read_is_told(text, lines):
    netrc = parse_netrc(text if isinstance(text, bytes) else text.encode())
    assert netrc.bad_lines == lines
    assert "hunter2" not in repr(netrc)
    if "hunter2" in str(text):
        assert netrc.find(["a"]) is None


def test_what_follows_a_keyword_whose_value_cannot_be_read_is_not_its_value():
    assert found('machine a.example login u password "x\nmachine b login v password p') is None
