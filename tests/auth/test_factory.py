"""If the archive refuses a credential: a newer token, one refresh, or the failure of the product."""

from __future__ import annotations

import asyncio
import base64

import pytest

from bulkdl.auth.base import says_invalid_token
from bulkdl.auth.factory import make_authenticator
from bulkdl.core.errors import AccountStopped
from bulkdl.core.models import AuthKind, TokenIn
from bulkdl.core.secret import Secret
from tests.auth.realm import PASSWORD, Realm
from tests.clocks import ManualClock

INVALID = 'Bearer realm="x", error="invalid_token", error_description="expired"'


def bearer(credential) -> str:
    return credential.header.reveal().removeprefix("Bearer ")


async def download(realm, authenticator, *, forbidden=False) -> bool:
    """Request one product as a transfer does, at most three times; return False if it is refused."""
    for _ in range(3):
        credential = await authenticator.credential()
        if realm.identity.check(bearer(credential)) and not forbidden:
            authenticator.accepted(credential)
            return True
        if not await authenticator.rejected(credential, status=401):
            return False
    return False


async def test_a_revoked_token_costs_one_refresh_for_fifty_workers():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        assert await download(realm, authenticator)
        realm.identity.revoke_access()
        assert all(await asyncio.gather(*(download(realm, authenticator) for _ in range(50))))
        assert (authenticator.logins, realm.identity.count("refresh_token")) == (1, 1)
        assert realm.event_details("refresh") == ["the archive refused the token"]


async def test_a_session_that_an_administrator_ends_costs_one_login_and_no_product():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        for kills in range(3):
            assert all(await asyncio.gather(*(download(realm, authenticator) for _ in range(20))))
            assert realm.identity.logins == 1 + kills
            realm.identity.end_sessions()
            await realm.clock.advance(60)


async def test_a_late_refusal_of_an_old_generation_costs_no_request():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        old = await authenticator.credential()
        assert await authenticator.rejected(old, status=401)
        new = await authenticator.credential()
        before = len(realm.identity.log)
        assert await authenticator.rejected(old, status=401)
        assert await authenticator.credential() == new
        assert len(realm.identity.log) == before


async def test_an_archive_that_always_answers_401_costs_one_extra_refresh():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        for _ in range(30):
            assert not await download(realm, authenticator, forbidden=True)
        assert len(realm.identity.log) == 2


async def test_forbidden_products_among_good_ones_do_not_cost_a_refresh_each():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        for n in range(200):
            forbidden = n % 2 == 0
            assert await download(realm, authenticator, forbidden=forbidden) is not forbidden
            await realm.clock.advance(1)
        assert realm.identity.count("refresh_token") <= 8
        assert authenticator.logins == 1


async def test_a_revoked_token_is_replaced_although_forbidden_products_had_slowed_replacements():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        for n in range(60):
            await download(realm, authenticator, forbidden=n % 2 == 0)
            await realm.clock.advance(1)
        realm.identity.revoke_access()
        results = [await download(realm, authenticator) for _ in range(5)]
        assert results[-2:] == [True, True]


async def test_a_403_fails_the_product_unless_the_token_is_invalid():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        credential = await authenticator.credential()
        assert not await authenticator.rejected(credential, status=403)
        assert not await authenticator.rejected(credential, status=403, challenge='Bearer error="insufficient_scope"')
        assert await authenticator.rejected(credential, status=403, challenge=INVALID)
        newer = await authenticator.credential()
        await realm.clock.advance(101)
        assert await authenticator.rejected(newer, status=403)


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        (INVALID, True),
        ("bearer error=invalid_token", True),
        ('Basic realm="x", Bearer error="invalid_token"', True),
        ('Bearer error="insufficient_scope"', False),
        ("Bearer", False),
        ("", False),
    ],
)
def test_a_challenge_says_whether_the_token_is_invalid(challenge, expected):
    assert says_invalid_token(challenge) is expected


async def test_the_token_goes_into_the_query_if_the_account_says_so():
    async with Realm() as realm:
        credential = await realm.authenticator(token_in=TokenIn.QUERY, token_param="t").credential()
        assert credential.header is None
        name, value = credential.query
        assert name == "t"
        assert realm.identity.check(value.reveal())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client_id": "closed"}, "direct access"),
        ({"client_id": "nobody"}, "client_id"),
        ({"client_id": None}, "client_id is missing"),
        ({"token_url": None}, "token_url is missing"),
    ],
)
async def test_a_wrongly_configured_account_says_what_to_fix(changes, said):
    async with Realm() as realm:
        with pytest.raises(AccountStopped, match=said):
            await realm.authenticator(**changes).credential()
        assert len(realm.identity.log) <= 1


async def test_secrets_are_searched_at_the_first_use_only():
    async with Realm() as realm:
        asked = []

        def resolve():
            asked.append(1)
            raise AccountStopped("no password", account="anna")

        authenticator = make_authenticator(realm.account(), resolve, **realm.parts())
        assert not asked
        for _ in range(3):
            with pytest.raises(AccountStopped, match="no password"):
                await authenticator.credential()
        assert len(asked) == 1
        assert authenticator.stopped is not None
        assert len(realm.event_details("stopped")) == 1


async def test_a_token_secret_that_is_not_base32_stops_the_account_without_a_request():
    async with Realm() as realm:
        given = realm.credentials(totp_secret=Secret("geheim1890"))
        with pytest.raises(AccountStopped, match="base32") as stop:
            await make_authenticator(realm.account(), given, **realm.parts()).credential()
        assert "geheim" not in str(stop.value)
        assert not realm.identity.log


async def test_the_account_shows_its_state_for_display():
    async with Realm(expires_in=240) as realm:
        authenticator = realm.authenticator()
        await authenticator.credential()
        assert realm.hub.counters.accounts["anna"] == "token valid 240 s"
        await authenticator.aclose()
        assert realm.hub.counters.accounts["anna"] == "logged out"


async def test_closing_an_unused_account_sends_nothing():
    async with Realm() as realm:
        await realm.authenticator().aclose()
        assert not realm.identity.log


# Fixed credentials.


def fixed(realm, auth=AuthKind.BASIC, **secrets):
    return make_authenticator(realm.account(auth=auth), realm.credentials(**secrets), **realm.parts())


async def test_basic_is_sent_in_utf8():
    async with Realm() as realm:
        credential = await fixed(realm).credential()
        scheme, _, value = credential.header.reveal().partition(" ")
        assert scheme == "Basic"
        assert base64.b64decode(value).decode() == f"anna:{PASSWORD}"


async def test_one_request_proves_a_fixed_password_before_the_others_use_it():
    async with Realm() as realm:
        authenticator = fixed(realm)
        first = await authenticator.credential()
        others = [asyncio.ensure_future(authenticator.credential()) for _ in range(20)]
        await asyncio.sleep(0)
        assert not any(other.done() for other in others)
        authenticator.accepted(first)
        assert len(await asyncio.gather(*others)) == 20
        assert authenticator.worked


async def test_a_wrong_fixed_password_is_tried_once_by_fifty_workers():
    async with Realm() as realm:
        authenticator, tries = fixed(realm), []

        async def work():
            credential = await authenticator.credential()
            tries.append(credential)
            await asyncio.sleep(0)
            assert await authenticator.rejected(credential, status=401)
            await authenticator.credential()

        results = await asyncio.gather(*(work() for _ in range(50)), return_exceptions=True)
        assert len(tries) == 1
        assert all(isinstance(r, AccountStopped) for r in results)
        assert "lock" in str(results[0])


async def test_if_the_probe_ends_without_a_response_the_next_request_probes():
    async with Realm() as realm:
        authenticator = fixed(realm)
        await asyncio.create_task(authenticator.credential())
        others = [asyncio.ensure_future(authenticator.credential()) for _ in range(3)]
        await asyncio.wait(others, return_when=asyncio.ALL_COMPLETED)
        assert [await other for other in others]


async def test_a_probe_without_a_response_may_try_again_itself():
    async with Realm() as realm:
        authenticator = fixed(realm)
        first = await authenticator.credential()
        assert await authenticator.credential() == first


async def test_after_a_first_success_a_refusal_fails_the_product():
    async with Realm() as realm:
        authenticator = fixed(realm)
        credential = await authenticator.credential()
        authenticator.accepted(credential)
        assert not await authenticator.rejected(credential, status=401)
        assert authenticator.stopped is None


async def test_a_403_before_any_success_proves_nothing_and_stops_nothing():
    async with Realm() as realm:
        authenticator = fixed(realm)
        credential = await authenticator.credential()
        assert not await authenticator.rejected(credential, status=403)
        assert not authenticator.worked
        assert authenticator.stopped is None


@pytest.mark.parametrize("token", ["two words", "tökén", "a\x00b"])
async def test_a_token_that_no_header_can_carry_stops_the_account(token):
    async with Realm() as realm:
        with pytest.raises(AccountStopped, match="token") as stop:
            await fixed(realm, AuthKind.BEARER, token=Secret(token)).credential()
        assert token not in str(stop.value)


async def test_auth_none_sends_no_credential():
    async with Realm(clock=ManualClock()) as realm:
        authenticator = fixed(realm, AuthKind.NONE)
        credential = await authenticator.credential()
        assert (credential.header, credential.query) == (None, None)
        assert not await authenticator.rejected(credential, status=401)
