"""User name and password: which scheme each request gets."""

from __future__ import annotations

import asyncio

import pytest

from bulkdl.auth.base import Credential
from bulkdl.auth.basic import PasswordScheme
from bulkdl.auth.credentials import Credentials
from bulkdl.core.errors import AccountStopped
from bulkdl.core.models import Account, AuthKind
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url

ACCOUNT = Account(name="a", auth=AuthKind.BASIC)
HERE, THERE = Url("https://a.example/x?y=1"), Url("https://b.example/x")
DIGEST = 'Digest realm="r", nonce="{}", qop="auth"'


def scheme(**given):
    return PasswordScheme(ACCOUNT, Credentials(**{"username": "u", "password": Secret("p"), **given}))


def sent(credential):
    return None if credential is None else credential.header and credential.header.reveal().partition(" ")[0]


async def test_one_password_for_all_hosts_is_one_header():
    credential = scheme().credential()
    assert credential.header.reveal() == "Basic dTpw"
    assert credential.bind("GET", HERE).header == credential.header


async def test_a_host_without_a_password_gets_no_credential():
    one = scheme(by_host={"a.example": ("v", Secret("q"))}, only_by_host=True)
    assert one.credential().bind("GET", HERE).header.reveal() == "Basic djpx"
    assert one.credential().bind("GET", THERE) is None
    both = scheme(by_host={"a.example": ("v", Secret("q"))})
    assert both.credential().header is None
    assert both.credential().bind("GET", THERE).header.reveal() == "Basic dTpw"
    assert (
        scheme(by_host={"::1": ("v", Secret("q"))}).credential().bind("GET", Url("http://[::1]:8080/")).header.reveal()
        == "Basic djpx"
    )


@pytest.mark.parametrize(("hosts", "plain"), [(("a.example",), True), (("a.example", "b.example"), False)])
async def test_one_password_for_all_hosts_of_the_products_is_one_header_too(hosts, plain):
    account = Account(name="a", auth=AuthKind.BASIC, netrc_hosts=hosts)
    given = Credentials(
        username="v", password=Secret("q"), by_host={"a.example": ("v", Secret("q"))}, only_by_host=True
    )
    one = PasswordScheme(account, given)
    assert (one.credential().header is not None) is plain
    assert one.credential().bind("GET", THERE) is None


@pytest.mark.parametrize("given", [{"username": "a:b"}, {"by_host": {"x": ("a:b", Secret(""))}, "only_by_host": True}])
async def test_a_user_name_with_a_colon_is_refused(given):
    with pytest.raises(AccountStopped, match="colon"):
        scheme(**given)


def refused(one, url, challenge, *, worked=False):
    used = one.credential().bind("GET", url)
    return one.may_answer(used, challenge, worked=worked)


async def test_after_digest_basic_goes_to_no_origin_that_has_not_asked_for_it():
    one = scheme()
    assert refused(one, HERE, DIGEST.format(1))
    assert one.credential().header is None
    assert sent(one.credential().bind("GET", HERE)) == "Digest"
    assert sent(one.credential().bind("GET", THERE)) is None
    assert refused(one, THERE, "Basic realm=x")
    assert sent(one.credential().bind("GET", THERE)) == "Basic"
    assert not refused(one, THERE, "Basic realm=x")
    assert not refused(one, HERE, "Basic realm=x")
    assert sent(one.credential().bind("GET", HERE)) == "Digest"


@pytest.mark.parametrize(
    ("challenge", "worked", "again"),
    [
        (DIGEST.format(2), False, False),
        (DIGEST.format(2), True, True),
        (DIGEST.format(2) + ", stale=true", False, True),
        (DIGEST.format(2) + ", stale=true", True, True),
        ("Basic realm=x", True, False),
        ("", True, False),
    ],
)
async def test_a_refused_answer_is_repeated_only_if_the_nonce_may_be_the_cause(challenge, worked, again):
    one = scheme()
    assert refused(one, HERE, DIGEST.format(1))
    assert refused(one, HERE, challenge, worked=worked) is again


async def test_a_second_refusal_in_a_row_is_one_of_the_password_and_a_later_one_is_not():
    one = scheme()
    assert refused(one, HERE, DIGEST.format(1))
    assert refused(one, HERE, DIGEST.format(2), worked=True)
    assert not refused(one, HERE, DIGEST.format(3), worked=True)
    assert refused(one, HERE, DIGEST.format(3) + ", stale=true", worked=True)
    one.accepted(one.credential().bind("GET", HERE))
    assert refused(one, HERE, DIGEST.format(4), worked=True)


async def test_each_worker_keeps_the_nonce_of_its_own_refusal():
    one, ready = scheme(), asyncio.Event()
    assert refused(one, HERE, DIGEST.format(0))

    async def worker(nonce):
        assert refused(one, HERE, DIGEST.format(nonce) + ", stale=true")
        if nonce == 2:
            ready.set()
        await ready.wait()
        return one.credential().bind("GET", HERE).header.reveal()

    first, second = await asyncio.gather(worker(1), worker(2))
    assert 'nonce="1"' in first
    assert 'nonce="2"' in second

    async def later():
        return one.credential().bind("GET", HERE).header.reveal()

    assert 'nonce="2"' in await asyncio.create_task(later())


async def test_an_answer_without_an_origin_is_none_of_a_request():
    assert not scheme().may_answer(Credential(1), DIGEST.format(1), worked=False)
