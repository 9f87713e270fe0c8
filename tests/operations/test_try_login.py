"""Trial logins and their reports."""

from __future__ import annotations

import pytest

from bulkdl.core.models import AuthKind, SecretSource
from bulkdl.operations.try_login import LoginReport, rehearse, try_login
from tests.auth.realm import Realm


async def test_a_trial_reports_lifetimes_and_leaves_no_session():
    async with Realm(expires_in=600, refresh_expires_in=3600) as realm:
        given = realm.credentials("otto", sources={"password": SecretSource.ENVIRONMENT})
        report = await try_login(realm.account("otto"), given, **realm.parts())
        assert report.error is None
        assert (report.access_lifetime, report.refresh_lifetime, report.has_refresh_token) == (600, 3600, True)
        assert (report.grant, report.totp_used, report.logins) == ("password", True, 1)
        assert report.sources == {"password": SecretSource.ENVIRONMENT}
        assert abs(report.clock_skew) <= 1
        assert (realm.identity.logins, realm.identity.refreshes, realm.identity.sessions) == (1, 0, 0)


@pytest.mark.parametrize("rotate", [True, False])
async def test_a_rehearsal_forces_a_refresh_and_a_second_login_with_the_next_code(rotate):
    async with Realm(rotate=rotate) as realm:
        report = await rehearse(realm.account("otto"), realm.credentials("otto"), **realm.parts())
        assert (report.refreshed, report.rotation, report.logins) == (True, rotate, 2)
        assert (realm.identity.logins, realm.identity.refreshes, realm.identity.sessions) == (2, 1, 0)
        assert realm.identity.count("password") == 2


async def test_a_failed_trial_gives_a_report_with_its_error():
    async with Realm() as realm:
        report = await try_login(realm.account(), realm.credentials(password="wrong"), **realm.parts())
        assert "Invalid user credentials" in str(report.error)
        assert report.access_lifetime is None


@pytest.mark.parametrize("auth", [AuthKind.BASIC, AuthKind.BEARER, AuthKind.NONE])
async def test_a_fixed_credential_is_reported_as_untested(auth):
    async with Realm() as realm:
        report = await try_login(realm.account(auth=auth), realm.credentials(), **realm.parts())
        assert report.error is None
        assert report.note
        assert not realm.identity.log


@pytest.mark.parametrize(
    ("access", "refresh", "has_refresh", "rotation", "logins"),
    [
        (600, 3600, True, False, 10),
        (600, 3600, True, True, 10),
        (600, None, True, None, 1),
        (300, None, False, None, 120),
        (86400, None, False, None, 1),
        (None, None, False, None, None),
    ],
)
def test_the_number_of_logins_is_estimated(access, refresh, has_refresh, rotation, logins):
    report = LoginReport(
        account="a",
        grant="password",
        access_lifetime=access,
        refresh_lifetime=refresh,
        has_refresh_token=has_refresh,
        rotation=rotation,
    )
    assert report.logins_per_night(10) == logins
