"""The file name of a `Content-Disposition`: the public table of cases for this header, and forms that servers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.filenames import check_relative
from bulkdl.protocol.content_disposition import file_name

# The cases of greenbytes' table "tc2231" by the names they have there. Where RFC 6266 calls a field invalid, any name or
# none would be right; the name here is what most browsers take.
PUBLIC = {
    "inlonly": ("inline", None),
    "inlonlyquoted": ('"inline"', None),
    "inlwithasciifilename": ('inline; filename="foo.html"', "foo.html"),
    "inlwithfnattach": ('inline; filename="Not an attachment!"', "Not an attachment!"),
    "attonly": ("attachment", None),
    "attonlyquoted": ('"attachment"', None),
    "attonlyucase": ("ATTACHMENT", None),
    "attwithasciifilename": ('attachment; filename="foo.html"', "foo.html"),
    "attwithasciifilename25": ('attachment; filename="0000000000111111111122222"', "0000000000111111111122222"),
    "attwithasciifnescapedchar": (r'attachment; filename="f\oo.html"', "foo.html"),
    "attwithasciifnescapedquote": (r'attachment; filename="\"quoting\" tested.html"', "_quoting_ tested.html"),
    "attwithquotedsemicolon": ('attachment; filename="Here\'s a semicolon;.html"', "Here's a semicolon;.html"),
    "attwithfilenameandextparam": ('attachment; foo="bar"; filename="foo.html"', "foo.html"),
    "attwithfilenameandextparamescaped": (r'attachment; foo="\"\\";filename="foo.html"', "foo.html"),
    "attwithasciifilenameucase": ('attachment; FILENAME="foo.html"', "foo.html"),
    "attwithasciifilenamenq": ("attachment; filename=foo.html", "foo.html"),
    "attwithtokfncommanq": ("attachment; filename=foo,bar.html", "foo,bar.html"),
    "attwithasciifilenamenqs": ("attachment; filename=foo.html ;", "foo.html"),
    "attemptyparam": ("attachment; ;filename=foo", "foo"),
    "attwithasciifilenamenqws": ("attachment; filename=foo bar.html", "foo bar.html"),
    "attwithfntokensq": ("attachment; filename='foo.html'", "foo.html"),
    "attwithisofnplain": ('attachment; filename="foo-\xe4.html"', "foo-ä.html"),
    "attwithutf8fnplain": ('attachment; filename="foo-\xc3\xa4.html"', "foo-ä.html"),
    "attwithfnrawpctenca": ('attachment; filename="foo-%41.html"', "foo-%41.html"),
    "attwithfnusingpct": ('attachment; filename="50%.html"', "50%.html"),
    "attwithfnrawpctencaq": (r'attachment; filename="foo-%\41.html"', "foo-%41.html"),
    "attwithnamepct": ('attachment; name="foo-%41.html"', None),
    "attwithfilenamepctandiso": ('attachment; filename="\xe4-%41.html"', "ä-%41.html"),
    "attwithfnrawpctenclong": ('attachment; filename="foo-%c3%a4-%e2%82%ac.html"', "foo-%c3%a4-%e2%82%ac.html"),
    "attwithasciifilenamews1": ('attachment; filename ="foo.html"', "foo.html"),
    "attwith2filenames": ('attachment; filename="foo.html"; filename="bar.html"', "foo.html"),
    "attfnbrokentoken": ("attachment; filename=foo[1](2).html", "foo[1](2).html"),
    "attfnbrokentokeniso": ("attachment; filename=foo-\xe4.html", "foo-ä.html"),
    "attfnbrokentokenutf": ("attachment; filename=foo-\xc3\xa4.html", "foo-ä.html"),
    "attmissingdisposition": ("filename=foo.html", "foo.html"),
    "attmissingdisposition2": ("x=y; filename=foo.html", "foo.html"),
    "attmissingdisposition3": ('"foo; filename=bar;baz"; filename=qux', "qux"),
    "attmissingdisposition4": ("filename=foo.html, filename=bar.html", "foo.html"),
    "emptydisposition": ("; filename=foo.html", "foo.html"),
    "doublecolon": (": inline; attachment; filename=foo.html", "foo.html"),
    "attandinline": ("inline; attachment; filename=foo.html", "foo.html"),
    "attandinline2": ("attachment; inline; filename=foo.html", "foo.html"),
    "attbrokenquotedfn": ('attachment; filename="foo.html".txt', "foo.html"),
    "attbrokenquotedfn2": ('attachment; filename="bar', "bar"),
    "attbrokenquotedfn3": ('attachment; filename=foo"bar;baz"qux', "foo_bar"),
    "attmultinstances": ("attachment; filename=foo.html, attachment; filename=bar.html", "foo.html"),
    "attmissingdelim": ("attachment; foo=foo filename=bar", None),
    "attmissingdelim2": ("attachment; filename=bar foo=foo ", "bar foo=foo"),
    "attmissingdelim3": ("attachment filename=bar", None),
    "attreversed": ("filename=foo.html; attachment", "foo.html"),
    "attconfusedparam": ("attachment; xfilename=foo.html", None),
    "attabspath": ('attachment; filename="/foo.html"', "foo.html"),
    "attabspathwin": (r'attachment; filename="\\foo.html"', "foo.html"),
    "attcdate": ('attachment; creation-date="Wed, 12 Feb 1997 16:29:51 -0500"', None),
    "attmdate": ('attachment; modification-date="Wed, 12 Feb 1997 16:29:51 -0500"; filename=a', "a"),
    "dispext": ("foobar", None),
    "dispextbadfn": ('attachment; example="filename=example.txt"', None),
    "attwithisofn2231iso": ("attachment; filename*=iso-8859-1''foo-%E4.html", "foo-ä.html"),
    "attwithfn2231utf8": ("attachment; filename*=UTF-8''foo-%c3%a4-%e2%82%ac.html", "foo-ä-€.html"),
    "attwithfn2231noc": ("attachment; filename*=''foo-%c3%a4-%e2%82%ac.html", "foo-ä-€.html"),
    "attwithfn2231utf8comp": ("attachment; filename*=UTF-8''foo-a%cc%88.html", "foo-a\u0308.html"),
    "attwithfn2231iso-bad": ("attachment; filename*=utf-8''foo-%E4.html", None),
    "attwithfn2231ws1": ("attachment; filename *=UTF-8''foo-%c3%a4.html", None),
    "attwithfn2231ws2": ("attachment; filename*= UTF-8''foo-%c3%a4.html", "foo-ä.html"),
    "attwithfn2231ws3": ("attachment; filename* =UTF-8''foo-%c3%a4.html", "foo-ä.html"),
    "attwithfn2231quot": ("attachment; filename*=\"UTF-8''foo-%c3%a4.html\"", "foo-ä.html"),
    "attwithfn2231quot2": ('attachment; filename*="foo%20bar.html"', "foo bar.html"),
    "attwithfn2231singleqmissing": ("attachment; filename*=UTF-8'foo-%c3%a4.html", None),
    "attwithfn2231nbadpct1": ("attachment; filename*=UTF-8''foo%", "foo%"),
    "attwithfn2231nbadpct2": ("attachment; filename*=UTF-8''f%oo.html", "f%oo.html"),
    "attwithfn2231dpct": ("attachment; filename*=UTF-8''A-%2541.html", "A-%41.html"),
    "attwithfn2231abspathdisguised": ("attachment; filename*=UTF-8''%5cfoo.html", "foo.html"),
    "attfncont": ('attachment; filename*0="foo."; filename*1="html"', "foo.html"),
    "attfncontqs": (r'attachment; filename*0="foo"; filename*1="\b\a\r.html"', "foobar.html"),
    "attfncontenc": ("attachment; filename*0*=UTF-8''foo-%c3%a4; filename*1=\".html\"", "foo-ä.html"),
    "attfncontlz": ('attachment; filename*0="foo"; filename*01="bar"', "foo"),
    "attfncontnc": ('attachment; filename*0="foo"; filename*2="bar"', "foo"),
    "attfnconts1": ('attachment; filename*1="foo."; filename*2="html"', None),
    "attfncontord": ('attachment; filename*1="bar"; filename*0="foo"', "foobar"),
    "attfnboth": ("attachment; filename=\"foo-ae.html\"; filename*=UTF-8''foo-%c3%a4.html", "foo-ä.html"),
    "attfnboth2": ("attachment; filename*=UTF-8''foo-%c3%a4.html; filename=\"foo-ae.html\"", "foo-ä.html"),
    "attfnboth3": (
        "attachment; filename*0*=ISO-8859-15''euro-sign%3d%a4; filename*=ISO-8859-1''currency-sign%3d%a4",
        "currency-sign=¤",
    ),
    "attnewandfn": ('attachment; foobar=x; filename="foo.html"', "foo.html"),
    "attrfc2047token": ("attachment; filename==?ISO-8859-1?Q?foo-=E4.html?=", "foo-ä.html"),
    "attrfc2047quoted": ('attachment; filename="=?ISO-8859-1?Q?foo-=E4.html?="', "foo-ä.html"),
}


@pytest.mark.parametrize("case", PUBLIC)
def test_the_public_table_of_cases_gives_the_names_that_browsers_take(case):
    value, name = PUBLIC[case]
    assert file_name(value) == name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("", None),
        ("inline; size=3", None),
        ('attachment; filename=""', None),
        ("attachment; filename=..", None),
        ('attachment; filename="a/"', None),
        ("attachment; filename=''", "''"),
        ("attachment; filename='x.nc'", "x.nc"),
        ("attachment; filename=\"'x.nc'\"", "x.nc"),
        ("attachment; filename='it''s.nc'", "it''s.nc"),
        ("attachment; filename=it's.nc", "it's.nc"),
        ("attachment; filename*=UTF-8''\"x.nc\"", "x.nc"),
        ("attachment; filename*=UTF-8''%22x.nc%22", "x.nc"),
        ("attachment; filename*=utf-8'en'x%20y.nc", "x y.nc"),
        ("attachment; filename*=x.nc", "x.nc"),
        ("attachment; filename*=UTF-8''%ff.zip; filename=x.zip", "x.zip"),
        ("attachment; filename*=klingon''a; filename=x.zip", "x.zip"),
        ("attachment; filename*=broken; filename=x.zip", "x.zip"),
        ('attachment;filename="a.zip"', "a.zip"),
        ('attachment ;\t filename\t=\t"a.zip"\t;', "a.zip"),
        ('attachment; filename="a;b.zip"; size=3', "a;b.zip"),
        (r'attachment; filename="C:\dir\a.zip"', "a.zip"),
        (r"attachment; filename=C:\dir\a.zip", "a.zip"),
        (r"attachment; filename=dir\a.zip", "a.zip"),
        (r'attachment; filename="..\..\a.zip"', "a.zip"),
        ("attachment; filename=/etc/passwd", "passwd"),
        ('attachment; filename="foo-\udce4.dat"', "foo-ä.dat"),
        ('attachment; filename="foo-\udcf6.dat"', "foo-ö.dat"),
        ('attachment; filename="foo-\udc81.dat"', "foo-%81.dat"),
        ('attachment; filename="\udcc3\udca9.zip"', "é.zip"),
        ('attachment; filename="\u6771\u4eac.zip"', "東京.zip"),
        ('attachment; filename="\u6771\udcff.zip"', "æ\x9d±ÿ.zip".replace("\x9d", "%9D")),
        ("attachment; filename*0*=UTF-8''%e6; filename*1*=%9d%b1.nc", "東.nc"),
        ("attachment; filename*0=a; filename=b.nc", "a"),
        ('attachment; filename="=?UTF-8?B?w6TDti5uYw==?="', "äö.nc"),
        ('attachment; filename="=?utf-8?q?a_b?= =?utf-8?q?c.nc?="', "a bc.nc"),
        ('attachment; filename="=?klingon?q?a?=.nc"', "=_klingon_q_a_=.nc"),
        ('attachment; filename="=?UTF-8?B?Li4vLi4veC5uYw==?="', "x.nc"),
        ('attachment; filename="CON"', "_CON"),
        ('attachment; filename="nul.tar.gz"', "_nul.tar.gz"),
        ('attachment; filename="a.nc" ; filename*="UTF-8\'\'b.nc"', "b.nc"),
        ('attachment; filename="a.nc", attachment; filename="b.nc"', "a.nc"),
    ],
)
def test_forms_that_servers_send_give_one_name(value, name):
    assert file_name(value) == name


@given(st.text(max_size=200))
def test_any_header_gives_a_safe_name_or_none(value):
    name = file_name(f"attachment; {value}")
    assert name is None or check_relative(name, windows=True) is None


@given(st.binary(min_size=1, max_size=8), st.binary(min_size=1, max_size=8))
def test_bytes_that_differ_above_ascii_never_become_one_name(one, two):
    first, second = (bytes(b | 0x80 for b in raw) for raw in (one, two))
    names = {
        file_name(f'attachment; filename="a{raw.decode("utf-8", "surrogateescape")}.nc"') for raw in (first, second)
    }
    assert "\ufffd" not in "".join(map(str, names))
    assert first == second or len(names) == 2
