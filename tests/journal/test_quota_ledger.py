"""The ledger of quotas: several writers, damage, folders that cannot be used, and what it stores."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from bulkdl.core.models import Account, AuthKind, Grant, SecretRef
from bulkdl.core.quota import BUCKET_S, KEPT_S, UsageBucket
from bulkdl.core.urls import HostList, Url
from bulkdl.journal.quota_ledger import QuotaLedger, account_key, read_usage

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_750_000_200.0
KEY = "k" * 32
KEYS = frozenset((KEY,))
WRITER = """
import sys
from pathlib import Path
from bulkdl.core.quota import UsageBucket
from bulkdl.journal.quota_ledger import QuotaLedger
ledger = QuotaLedger(Path(sys.argv[1]), warn=lambda text: sys.exit(text))
for _ in range(40):
    assert ledger.add({"k" * 32: UsageBucket(0.0, 10, 1, 0)}, now=1_750_000_200.0)
"""


def ledger_in(folder: Path) -> tuple[QuotaLedger, list[str]]:
    warnings: list[str] = []
    return QuotaLedger(folder, warn=warnings.append), warnings


def test_additions_to_one_bucket_are_summed_and_outlive_the_process(tmp_path):
    ledger, warnings = ledger_in(tmp_path / "new" / "state")
    ledger.add({KEY: UsageBucket(0.0, 100, 1, 1)}, now=NOW)
    ledger.add({KEY: UsageBucket(0.0, 20, 2, 0)}, now=NOW + BUCKET_S - 1)
    ledger.add({KEY: UsageBucket(0.0, 3, 0, 0)}, now=NOW + BUCKET_S)
    expected = {KEY: (UsageBucket(NOW, 120, 3, 1), UsageBucket(NOW + BUCKET_S, 3, 0, 0))}
    assert ledger.read(KEYS) == read_usage(tmp_path / "new" / "state", KEYS) == expected
    assert warnings == []


def test_no_addition_of_several_processes_is_lost(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert read_usage(tmp_path, KEYS) == {KEY: (UsageBucket(NOW, 1200, 120, 0),)}


def test_what_is_older_than_the_longest_period_is_deleted(tmp_path):
    ledger, _ = ledger_in(tmp_path)
    ledger.add({KEY: UsageBucket(0.0, 1)}, now=NOW)
    ledger.add({KEY: UsageBucket(0.0, 2)}, now=NOW + KEPT_S)
    assert len(ledger.read(KEYS)[KEY]) == 2
    ledger.add({KEY: UsageBucket(0.0, 4)}, now=NOW + KEPT_S + 2 * BUCKET_S)
    assert [bucket.bytes for bucket in ledger.read(KEYS)[KEY]] == [2, 4]


def test_a_damaged_ledger_is_set_aside_with_one_warning(tmp_path):
    (tmp_path / "quota.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    ledger, warnings = ledger_in(tmp_path)
    assert ledger.read(KEYS) == {KEY: ()}
    assert ledger.add({KEY: UsageBucket(0.0, 5)}, now=NOW)
    assert ledger.read(KEYS) == {KEY: (UsageBucket(NOW, 5),)}
    assert len(warnings) == 1
    assert "damaged" in warnings[0]
    assert (tmp_path / "quota.sqlite.damaged").read_bytes().startswith(b"not a database")


def test_a_folder_that_cannot_be_used_has_one_warning_and_no_error(tmp_path):
    (tmp_path / "file").touch()
    ledger, warnings = ledger_in(tmp_path / "file" / "state")
    assert ledger.read(KEYS) == {}
    assert not ledger.add({KEY: UsageBucket(0.0, 5)}, now=NOW)
    assert len(warnings) == 1
    assert "cannot be used" in warnings[0]


def test_reading_for_display_creates_nothing(tmp_path):
    assert read_usage(tmp_path / "state", KEYS) == {}
    assert list(tmp_path.iterdir()) == []


def test_reading_a_damaged_ledger_for_display_finds_nothing_and_leaves_it(tmp_path):
    (tmp_path / "quota.sqlite").write_bytes(b"damaged" * 1000)
    assert read_usage(tmp_path, KEYS) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["quota.sqlite"]


def test_the_key_tells_users_and_services_apart_but_not_the_names_of_accounts():
    url = Url("https://sso.example.org/token")
    one = Account(name="one", auth=AuthKind.OIDC, token_url=url)
    two = Account(name="two", auth=AuthKind.OIDC, token_url=url)
    assert account_key(one, "jo") == account_key(two, "jo")
    assert account_key(one, "jo") != account_key(one, "tina")
    other = Account(name="one", auth=AuthKind.OIDC, token_url=Url("https://sso.example.net/token"))
    assert account_key(one, "jo") != account_key(other, "jo")


def test_a_client_or_the_account_stands_for_a_user_name_that_there_is_not():
    url, secret = Url("https://sso.example.org/token"), SecretRef("${SECRET}")
    robots = [
        Account(
            name=name,
            auth=AuthKind.OIDC,
            token_url=url,
            client_id=client,
            client_secret=secret,
            grant=Grant.CLIENT_CREDENTIALS,
        )
        for name, client in (("a", "robot"), ("b", "robot"), ("a", "other"))
    ]
    keys = [account_key(robot, None) for robot in robots]
    assert keys[0] == keys[1] != keys[2]
    bearers = [Account(name=n, auth=AuthKind.BEARER, hosts=HostList(("a.example.org",))) for n in ("a", "b")]
    assert account_key(bearers[0], None) != account_key(bearers[1], None)


def test_the_key_names_nobody():
    account = Account(name="own", auth=AuthKind.OIDC, token_url=Url("https://sso.example.org/token"))
    key = account_key(account, "joanna")
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")
