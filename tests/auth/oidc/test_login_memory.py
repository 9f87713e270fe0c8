"""Memory of a login that worked: its content, how long it lasts, and that it tells no secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bulkdl.auth.oidc.factory import login_for
from bulkdl.auth.oidc.login_memory import LoginMemory
from bulkdl.core.models import Account, AuthKind
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from tests.auth.realm import Credentials
from tests.clocks import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86400.0


def memory(folder: Path, clock: ManualClock, *, password: str = "canary-secret", user: str = "canary-anna"):
    url = Url("https://sso.example.org/token")
    account = Account(name="anna", auth=AuthKind.OIDC, token_url=url, client_id="public")
    login = login_for(account, Credentials(username=user, password=Secret(password)))
    return LoginMemory(folder, login, clock=clock)


@pytest.mark.parametrize(("days", "known"), [(0, True), (13.9, True), (14.1, False), (-13.9, True), (-14.1, False)])
def test_a_login_that_worked_is_remembered_for_fourteen_days(tmp_path, days, known):
    clock = ManualClock()
    assert not memory(tmp_path, clock).has_worked()
    memory(tmp_path, clock).record()
    clock.jump_wall(days * DAY_S)
    assert memory(tmp_path, clock).has_worked() is known


@pytest.mark.parametrize("change", [{"password": "changed"}, {"user": "otto"}])
def test_another_password_or_user_is_not_known(tmp_path, change):
    clock = ManualClock()
    memory(tmp_path, clock).record()
    assert not memory(tmp_path, clock, **change).has_worked()


def test_a_folder_that_cannot_be_written_remembers_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    known = memory(tmp_path / "file" / "state", ManualClock())
    known.record()
    assert not known.has_worked()


def test_neither_the_file_nor_its_name_tells_a_secret(tmp_path):
    memory(tmp_path, ManualClock()).record()
    (path,) = tmp_path.iterdir()
    assert "canary" not in path.name
    assert float(path.read_text()) == 1_750_000_000


@pytest.mark.parametrize("damage", [b"", b"not a number", b"\xff\xfe", b"nan"])
def test_a_damaged_file_is_no_memory(tmp_path, damage):
    known = memory(tmp_path, ManualClock())
    known.record()
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    assert not known.has_worked()
