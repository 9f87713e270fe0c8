"""One login of a user at a time on this machine; accounts with the same login share it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import multiprocessing
import os
from contextlib import nullcontext

import pytest

from bulkdl.auth.factory import make_authenticator
from bulkdl.auth.oidc.login_lock import LoginLock, _last_end
from bulkdl.auth.oidc.token_manager import RetryLimits
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import AccountStopped
from bulkdl.core.urls import Url
from bulkdl.demo_server.token_server import EndpointFault
from tests.auth.realm import Realm
from tests.clocks import ImpatientClock

URL = Url("https://sso.example.org/token")


async def until(condition) -> None:
    """Run the event loop until the condition holds, or the test's time limit ends."""
    while not condition():  # noqa: ASYNC110 - the other end of a socket has no event to wait for
        await asyncio.sleep(0)


async def test_a_login_waits_for_another_one_of_the_same_user():
    async with Realm() as realm:
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        first, second = (asyncio.ensure_future(realm.authenticator().credential()) for _ in range(2))
        await until(lambda: realm.clock.slept and realm.identity.log)
        assert realm.identity.count("password") == 1
        answer.set()
        await asyncio.gather(first, second)
        assert realm.identity.logins == 2
        assert not realm.identity.failures


async def test_without_the_lock_the_server_refuses_the_second_login_like_a_wrong_password(tmp_path):
    async with Realm() as realm:
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        first = asyncio.ensure_future(realm.authenticator().credential())
        await until(lambda: realm.identity.log)
        realm.state = tmp_path  # another machine
        with pytest.raises(AccountStopped, match="Invalid user credentials"):
            await realm.authenticator().credential()
        answer.set()
        await first


async def test_different_users_do_not_wait_for_each_other(tmp_path):
    lock, clock = LoginLock(tmp_path, clock=ImpatientClock()), ImpatientClock()
    async with lock.hold(URL, "anna"), lock.hold(URL, "otto"):
        assert not clock.slept


async def test_a_login_waits_at_most_two_minutes_for_the_lock(tmp_path):
    clock = ImpatientClock()
    lock = LoginLock(tmp_path, clock=clock)
    async with lock.hold(URL, "anna"), lock.hold(URL, "anna"):
        assert sum(clock.slept) == pytest.approx(120, abs=0.2)
        assert set(clock.slept) == {0.1}


async def test_a_login_that_gave_up_waiting_leaves_the_lock_to_its_holder(tmp_path):
    clock = ImpatientClock()
    lock = LoginLock(tmp_path, clock=clock)
    async with lock.hold(URL, "anna"):
        for _ in range(2):
            clock.slept.clear()
            (path,) = tmp_path.iterdir()
            os.utime(path, (1000.0, 1000.0))
            async with lock.hold(URL, "anna"):
                assert sum(clock.slept) == pytest.approx(120, abs=0.2)
            assert path.stat().st_mtime == 1000.0


@pytest.mark.parametrize(
    ("passed", "gap"), [(0.0, 0.3), (0.1, 0.2), (0.301, None), (5.0, None), (-0.1, None), (-3600.0, None)]
)
async def test_between_two_logins_there_are_three_tenths_of_a_second(tmp_path, passed, gap):
    clock = ImpatientClock()
    async with LoginLock(tmp_path, clock=clock).hold(URL, "anna"):
        assert clock.slept == []
        clock.jump_wall(1000.0)
    clock.jump_wall(passed)
    async with LoginLock(tmp_path, clock=clock).hold(URL, "anna"):
        assert clock.slept == ([] if gap is None else [pytest.approx(gap, abs=1e-5)])


async def test_the_folder_and_the_lock_are_the_owners_alone_and_named_by_a_hash(tmp_path):
    async with LoginLock(tmp_path / "state" / "here", clock=SystemClock()).hold(URL, "anna"):
        (path,) = (tmp_path / "state" / "here").iterdir()
    digest = hashlib.sha256(f"bulkdl login turns\0{URL.raw}\0anna".encode()).hexdigest()
    assert path.name == f"login-{digest[:32]}.lock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "no locks")])
async def test_on_a_file_system_without_locks_the_login_proceeds_at_once(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    clock = ImpatientClock()
    async with LoginLock(tmp_path, clock=clock).hold(URL, "anna"):
        (path,) = tmp_path.iterdir()
    os.utime(path, (1000.0, 1000.0))
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    async with LoginLock(tmp_path, clock=clock).hold(URL, "anna"):
        assert clock.slept == []
    assert path.stat().st_mtime == 1000.0


async def test_the_lock_is_released_while_somebody_still_looks_at_the_error(tmp_path):
    lock = LoginLock(tmp_path, clock=(clock := ImpatientClock()))
    with pytest.raises(RuntimeError) as kept:
        async with lock.hold(URL, "anna"):
            raise RuntimeError
    async with lock.hold(URL, "anna"):
        assert sum(clock.slept) < 1
    assert kept.value is not None


def test_a_lock_file_that_nobody_has_written_ended_long_ago(tmp_path):
    assert _last_end(str(tmp_path / "none")) == 0.0


async def test_a_lock_file_that_is_gone_at_the_end_of_the_login_does_no_harm(tmp_path):
    clock = ImpatientClock()
    async with LoginLock(tmp_path, clock=clock).hold(URL, "anna"):
        (path,) = tmp_path.iterdir()
        path.unlink()
    async with LoginLock(tmp_path, clock=clock).hold(URL, "anna"):
        assert clock.slept == []


@pytest.mark.parametrize("error", [True, False])
async def test_the_lock_is_released_even_if_the_login_fails(tmp_path, error):
    lock = LoginLock(tmp_path, clock=SystemClock())
    with pytest.raises(RuntimeError) if error else nullcontext():
        async with lock.hold(URL, "anna"):
            if error:
                raise RuntimeError
    async with asyncio.timeout(60), lock.hold(URL, "anna"):
        pass


async def test_if_no_file_can_be_written_the_login_proceeds_without_a_lock(tmp_path):
    (tmp_path / "file").write_text("in the way")
    clock = ImpatientClock()
    async with LoginLock(tmp_path / "file" / "state", clock=clock).hold(URL, "anna"):
        assert not clock.slept


async def test_the_lock_names_no_user(tmp_path):
    async with LoginLock(tmp_path, clock=SystemClock()).hold(URL, "anna"):
        (path,) = tmp_path.iterdir()
    assert "anna" not in path.name
    assert path.read_bytes() == b""


def _lock_and_die(folder, taken):
    async def take():
        async with LoginLock(folder, clock=SystemClock()).hold(URL, "anna"):
            taken.set()
            os._exit(1)

    asyncio.run(take())


async def test_a_process_that_dies_with_the_lock_does_not_block_others(tmp_path):
    context = multiprocessing.get_context("spawn")
    taken = context.Event()
    process = context.Process(target=_lock_and_die, args=(tmp_path, taken))
    process.start()
    await asyncio.to_thread(process.join)
    assert taken.is_set()
    clock = ImpatientClock()
    async with LoginLock(tmp_path, clock=clock).hold(URL, "anna"):
        assert sum(clock.slept) < 1


# One token manager for accounts with the same login


def pair(realm, *passwords):
    """Return accounts of one user with these passwords, in one run."""
    logins = {}
    return [
        make_authenticator(
            realm.account("anna", name=f"account{n}"),
            realm.credentials("anna", **({"password": password} if password else {})),
            **realm.parts(),
            logins=logins,
        )
        for n, password in enumerate(passwords)
    ]


async def test_accounts_with_the_same_login_share_it():
    async with Realm() as realm:
        authenticators = pair(realm, None, None)
        credentials = await asyncio.gather(
            *(authenticator.credential() for authenticator in authenticators for _ in range(20))
        )
        assert len({c.header for c in credentials}) == 1
        assert realm.identity.count("password") == 1
        assert [authenticator.logins for authenticator in authenticators] == [1, 0]
        assert all(authenticator.worked for authenticator in authenticators)
        assert "account0" in realm.hub.counters.accounts["account1"]
        for authenticator in authenticators:
            await authenticator.aclose()


async def test_the_shared_session_ends_with_the_last_account_that_uses_it():
    async with Realm() as realm:
        first, second = pair(realm, None, None)
        await first.credential()
        await second.credential()
        await first.aclose()
        await first.aclose()
        assert realm.identity.sessions == 1
        await second.credential()
        await second.aclose()
        assert realm.identity.sessions == 0


async def test_an_account_that_shares_a_login_is_stopped_under_its_own_name():
    async with Realm() as realm:
        authenticators = pair(realm, "wrong", "wrong")
        for number, authenticator in enumerate(authenticators):
            with pytest.raises(AccountStopped) as stop:
                await authenticator.credential()
            assert stop.value.account == authenticator.stopped.account == f"account{number}"
        assert realm.identity.count("password") == 1


async def test_accounts_with_different_passwords_do_not_share_a_login():
    async with Realm() as realm:
        right, wrong = pair(realm, None, "wrong")
        await right.credential()
        with pytest.raises(AccountStopped):
            await wrong.credential()
        assert right.stopped is None
        await right.aclose()


async def test_an_endpoint_that_never_answers_the_logout_delays_the_end_by_the_limit_only():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        await authenticator.credential()
        authenticator.manager._retry_limits = RetryLimits(logout_s=0.05)
        hanging = asyncio.Event()
        realm.identity.script_logout(EndpointFault(until=hanging))
        await authenticator.aclose()
        assert any("did not answer the logout in time" in note for note in realm.notes())
        hanging.set()


def test_all_logouts_together_have_three_seconds():
    assert RetryLimits().logout_s == 3.0
