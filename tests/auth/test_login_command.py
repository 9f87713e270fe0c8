"""The output of `bulkdl login`."""

from __future__ import annotations

import json
import time

import pytest

from bulkdl.cli.commands.login import report_json, report_lines, try_accounts
from bulkdl.cli.dispatch import Invocation
from bulkdl.cli.parser import build_parser
from bulkdl.core.models import SecretRef, Settings
from bulkdl.demo_server.token_server import EndpointFault
from bulkdl.operations.try_login import try_login
from tests.auth.realm import CLIENT_SECRET, PASSWORD, TOTP, Realm

ENVIRON = {"P": PASSWORD, "WRONG": "wrong", "T": TOTP}


async def tried(realm, tmp_path, *names, rehearsal=False, hours=10.0, **changes):
    """Return the lines that `bulkdl login` prints for these users' accounts."""
    arguments = build_parser().parse_args(["login", "m.yaml"])
    invocation = Invocation(arguments, {**ENVIRON, "BULKDL_STATE_DIR": str(tmp_path)})
    accounts = [
        realm.account(
            name,
            username=SecretRef(name),
            **{
                "password": SecretRef("${P}"),
                **({"totp_secret": SecretRef("${T}")} if name == "otto" else {}),
                **changes,
            },
        )
        for name in names
    ]
    reports = await try_accounts(accounts, Settings(), invocation, rehearsal=rehearsal)
    text = "\n".join(line for report in reports for line in report_lines(report, hours=hours))
    for secret in (PASSWORD, TOTP, CLIENT_SECRET):
        assert secret not in text + json.dumps([report_json(report) for report in reports])
    return text


async def test_a_login_shows_grant_lifetimes_clock_and_the_logins_of_a_night(tmp_path):
    async with Realm(expires_in=600, refresh_expires_in=3600) as realm:
        realm.clock.jump_wall(time.time() - realm.clock.wall())
        text = await tried(realm, tmp_path, "anna", hours=8)
    assert text.splitlines() == [
        "anna: logged in",
        "  grant           password",
        "  username        from the manifest",
        "  password        from environment variable P",
        "  access token    valid 10m00s",
        "  refresh token   yes, valid 1h00m",
        "  server clock    agrees with this machine's clock",
        "  logins          about 8 logins in 8 hours",
    ]


@pytest.mark.parametrize("rotate", [True, False])
async def test_a_rehearsal_says_whether_the_refresh_and_the_second_login_work(tmp_path, rotate):
    async with Realm(rotate=rotate) as realm:
        text = await tried(realm, tmp_path, "anna", rehearsal=True)
        assert (realm.identity.logins, realm.identity.refreshes, realm.identity.sessions) == (2, 1, 0)
    assert "refresh         works" in text
    assert ("each refresh issues a new refresh token" in text) is rotate
    assert "second login    works" in text


async def test_a_refresh_that_does_not_work_is_found_by_the_rehearsal(tmp_path):
    async with Realm(expires_in=600) as realm:
        realm.identity.script(EndpointFault(), EndpointFault(status=400, body={"error": "invalid_grant"}))
        text = await tried(realm, tmp_path, "anna", rehearsal=True)
    assert "refresh         does not work; every access token needs a new login" in text
    assert "about 60 logins in 10 hours" in text


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "anna",
            {"password": SecretRef("${WRONG}")},
            ("Invalid user credentials", "wrong password", "locked", "15 min"),
        ),
        ("gone", {}, ("Account disabled", "ask its support")),
        ("anna", {"client_id": "closed"}, ("direct access grants", "another client_id")),
        ("anna", {"client_id": "nobody"}, ("invalid_client", "Check client_id")),
        ("anna", {"password": SecretRef("${NOT_SET}")}, ("NOT_SET (not set)", "ANNA_PASSWORD")),
    ],
)
async def test_a_failure_is_explained_with_what_to_do(tmp_path, name, changes, said):
    async with Realm() as realm:
        text = await tried(realm, tmp_path, name, **changes)
        assert realm.identity.count("password") <= 1
    assert f"{name}: could not log in" in text
    for words in said:
        assert words in text


async def test_with_one_time_codes_the_code_and_the_clock_are_among_the_suspects():
    async with Realm() as realm:
        realm.identity.script(EndpointFault(status=401, body={"error": "invalid_grant"}), times=2)
        text = await _impatiently(realm)
    for suspect in ("wrong password", "TOTP code", "locked account", "clock"):
        assert suspect in text


async def _impatiently(realm):
    """Use the impatient clock: the command would wait for the next TOTP step by the real clock."""
    report = await try_login(realm.account("otto"), realm.credentials("otto"), **realm.parts())
    return "\n".join(report_lines(report))


async def test_one_account_that_fails_leaves_the_others_to_be_tried(tmp_path):
    async with Realm() as realm:
        text = await tried(realm, tmp_path, "gone", "anna")
    assert "gone: could not log in" in text
    assert "anna: logged in" in text


async def test_a_clock_that_is_off_is_told_with_its_direction(tmp_path):
    async with Realm() as realm:
        realm.clock.jump_wall(time.time() + 3630 - realm.clock.wall())
        text = await tried(realm, tmp_path, "anna")
    assert "1h00m ahead of this machine's" in text
