"""The destination lock admits one run at a time."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.errors import StorageStopped
from bulkdl.storage.destination_lock import DestinationLock, _lock_without_os_locks
from bulkdl.storage.filesystem import state_folder
from tests.storage.storage_places import child, mounted, read_only

if TYPE_CHECKING:
    from pathlib import Path


def test_the_second_run_is_told_who_holds_the_destination_and_what_to_do(tmp_path: Path) -> None:
    with child("hold", tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageStopped) as refused:
            DestinationLock(tmp_path).acquire()
    owner_since = json.loads((tmp_path / ".bulkdl/owner.json").read_text())["since"]
    assert f"process {holder.pid} on {socket.gethostname()}, since {owner_since}" in refused.value.reason
    assert "bulkdl status" in refused.value.hint
    assert refused.value.exit_code == 4


def test_the_lock_of_a_killed_process_is_taken_over_and_named(tmp_path: Path) -> None:
    with child("hold", tmp_path) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with DestinationLock(tmp_path) as lock:
            assert lock.took_over is not None
            assert lock.took_over.pid == holder.pid
            assert json.loads((tmp_path / ".bulkdl/owner.json").read_text())["pid"] == os.getpid()


def test_a_released_lock_leaves_no_previous_owner(tmp_path: Path) -> None:
    with DestinationLock(tmp_path):
        pass
    with DestinationLock(tmp_path) as lock:
        assert lock.took_over is None


async def test_two_runs_in_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    async with DestinationLock(tmp_path):
        with pytest.raises(StorageStopped, match=f"process {os.getpid()} "):
            async with DestinationLock(tmp_path):
                pass
    async with DestinationLock(tmp_path):
        pass


async def test_a_destination_is_given_back_at_the_end_of_the_block(tmp_path: Path) -> None:
    """Also while the lock itself is still referred to, and whichever thread gives it back."""
    first, second = DestinationLock(tmp_path), DestinationLock(tmp_path)
    async with first as entered:
        assert entered is first
    with second as entered:
        assert entered is second
    async with DestinationLock(tmp_path) as third:
        assert third.took_over is None
    third.release()  # a second time does nothing
    assert [first.took_over, second.took_over] == [None, None]


def test_a_folder_in_the_place_of_the_lock_stops_the_run(tmp_path: Path) -> None:
    (state_folder(tmp_path) / "lock").mkdir()
    with pytest.raises(StorageStopped, match=r"^Could not lock '\.bulkdl/lock'"):
        DestinationLock(tmp_path).acquire()
    assert not (tmp_path / ".bulkdl/lock.pid").exists()


def test_a_destination_whose_holder_cannot_be_named_is_given_back(tmp_path: Path) -> None:
    (state_folder(tmp_path) / "owner.json").mkdir()
    lock = DestinationLock(tmp_path)
    with pytest.raises(StorageStopped, match="Could not lock"):
        lock.acquire()
    (tmp_path / ".bulkdl/owner.json").rmdir()
    with DestinationLock(tmp_path):
        lock.release()  # it has nothing to give back
        with pytest.raises(StorageStopped, match="Another run holds"):
            lock.acquire()


def test_a_full_disk_keeps_no_run_from_its_destination(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "size=64k") as place:
        state_folder(place)
        with suppress(OSError), (place / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        lock = DestinationLock(place)
        with lock:
            assert not (place / ".bulkdl/owner.json").exists()
            with pytest.raises(StorageStopped) as refused:
                DestinationLock(place).acquire()
            assert refused.value.reason == f"Another run holds the destination '{place}'"


def test_an_unreadable_owner_file_neither_stops_a_run_nor_the_refusal_of_a_second(tmp_path: Path) -> None:
    owner = state_folder(tmp_path) / "owner.json"
    owner.write_text("[1, 2")
    with DestinationLock(tmp_path) as lock:
        assert lock.took_over is None
        owner.write_text('{"pid": "many"}')
        with pytest.raises(StorageStopped, match="Another run holds"):
            DestinationLock(tmp_path).acquire()


def test_a_read_only_destination_stops_the_run_with_a_clear_sentence(tmp_path: Path) -> None:
    with (
        read_only(tmp_path / "ro") as place,
        pytest.raises(StorageStopped, match=r"Could not create '.bulkdl': (the file system is read-only|permission)"),
    ):
        DestinationLock(place).acquire()


def test_a_file_where_the_destination_must_be_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "dest").write_text("a file")
    with pytest.raises(StorageStopped, match="a file is"):
        DestinationLock(tmp_path / "dest").acquire()


def test_git_ignores_the_state_folder(tmp_path: Path) -> None:
    with DestinationLock(tmp_path):
        assert (tmp_path / ".bulkdl/.gitignore").read_text() == "*\n"


NO_LOCKS = [
    pytest.param(OSError(errno.ENOLCK, "no locks"), id="ENOLCK"),
    pytest.param(OSError(errno.ENOSYS, "no locks"), id="ENOSYS"),
    pytest.param(OSError(errno.EOPNOTSUPP, "no locks"), id="EOPNOTSUPP"),
    pytest.param(NotImplementedError("no locks"), id="NotImplementedError"),
]


def lock_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)


@pytest.mark.parametrize("error", NO_LOCKS)
def test_without_locks_a_file_with_the_process_id_admits_one_run_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    lock_raises(monkeypatch, error)
    with DestinationLock(tmp_path):
        assert json.loads((tmp_path / ".bulkdl/lock.pid").read_text())["pid"] == os.getpid()
        with pytest.raises(StorageStopped, match=r"^Another run holds"):
            DestinationLock(tmp_path).acquire()
    assert not (tmp_path / ".bulkdl/lock.pid").exists()
    assert not (tmp_path / ".bulkdl/owner.json").exists()
    with DestinationLock(tmp_path):
        pass


def test_the_file_with_the_process_id_is_given_back_if_the_holder_cannot_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_raises(monkeypatch, NotImplementedError())
    (state_folder(tmp_path) / "owner.json").mkdir()
    with pytest.raises(StorageStopped, match="Could not lock"):
        DestinationLock(tmp_path).acquire()
    assert not (tmp_path / ".bulkdl/lock.pid").exists()


def test_another_error_of_the_lock_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_raises(monkeypatch, PermissionError(errno.EACCES, "no"))
    with pytest.raises(StorageStopped, match="Could not lock"):
        DestinationLock(tmp_path).acquire()
    assert not (tmp_path / ".bulkdl/lock.pid").exists()


def test_a_full_disk_is_the_only_error_that_an_owner_file_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nobody can name the holder; the lock holds all the same."""
    for code, stops in ((errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EIO, True), (errno.EACCES, True)):

        def write(path: Path, code: int = code) -> None:
            raise OSError(code, os.strerror(code), str(path))

        monkeypatch.setattr("bulkdl.storage.destination_lock.write_owner", write)
        lock = DestinationLock(tmp_path)
        with pytest.raises(StorageStopped) if stops else nullcontext(), lock:
            pass
        lock.release()


async def test_a_lock_is_released_if_the_task_is_cancelled_while_it_is_taken(tmp_path: Path) -> None:
    task = asyncio.ensure_future(DestinationLock(tmp_path).__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    with DestinationLock(tmp_path):
        pass


class TestWithoutLocks:
    """On a file system without locks, an exclusively created file replaces them."""

    def test_a_living_process_is_respected(self, tmp_path: Path) -> None:
        with child("hold-without-locks", tmp_path) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            with pytest.raises(StorageStopped, match=f"process {holder.pid} on") as refused:
                _lock_without_os_locks(tmp_path / ".bulkdl/lock.pid", tmp_path)
        assert "lock.pid" in refused.value.hint

    def test_the_file_of_a_killed_process_is_taken_over(self, tmp_path: Path) -> None:
        file = tmp_path / ".bulkdl/lock.pid"
        with child("hold-without-locks", tmp_path) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            holder.kill()
            holder.wait()
            release = _lock_without_os_locks(file, tmp_path)
        assert json.loads(file.read_text())["pid"] == os.getpid()
        assert file.stat().st_mode & 0o133 == 0
        assert [path.name for path in file.parent.iterdir() if path.name.startswith("lock.pid")] == ["lock.pid"]
        with pytest.raises(StorageStopped):
            _lock_without_os_locks(file, tmp_path)
        release()
        assert not file.exists()

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param('{"pid": 1, "host": "elsewhere.example.org", "since": "", "version": ""}', id="another-host"),
            pytest.param("", id="being-written"),
        ],
    )
    def test_an_unreadable_lock_file_is_respected(self, tmp_path: Path, content: str) -> None:
        file = state_folder(tmp_path) / "lock.pid"
        file.write_text(content)
        with pytest.raises(StorageStopped, match="If that run has ended, delete"):
            _lock_without_os_locks(file, tmp_path)
        assert file.read_text() == content

    def test_a_file_left_by_an_earlier_process_with_our_own_id_is_taken_over(self, tmp_path: Path) -> None:
        file = state_folder(tmp_path) / "lock.pid"
        file.write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-01-01", "version": "0"})
        )
        _lock_without_os_locks(file, tmp_path)()
        assert not file.exists()

    def test_a_file_with_our_own_id_that_came_after_we_gave_ours_back_is_taken_over(self, tmp_path: Path) -> None:
        file = state_folder(tmp_path) / "lock.pid"
        release = _lock_without_os_locks(file, tmp_path)
        left = file.read_text()
        release()
        file.write_text(left)
        _lock_without_os_locks(file, tmp_path)()
        assert not file.exists()

    def test_a_file_that_somebody_has_deleted_is_given_back_all_the_same(self, tmp_path: Path) -> None:
        file = state_folder(tmp_path) / "lock.pid"
        release = _lock_without_os_locks(file, tmp_path)
        file.unlink()
        release()
        assert not file.exists()

    def test_of_two_processes_that_find_a_stale_file_the_slower_one_gives_the_others_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = state_folder(tmp_path) / "lock.pid"
        stale = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-01-01", "version": "0"}
        file.write_text(json.dumps(stale))
        other = {**stale, "pid": 1, "since": "2026-01-02"}

        def rename_after_the_other(path: Path, target: Path) -> Path:
            if path == file:
                file.write_text(json.dumps(other))  # the faster one has replaced it
            os.rename(path, target)  # noqa: PTH104 - the method under test
            return target

        monkeypatch.setattr("pathlib.Path.rename", rename_after_the_other)
        with pytest.raises(StorageStopped, match=r"process 1 on .*, since 2026-01-02"):
            _lock_without_os_locks(file, tmp_path)
        assert json.loads(file.read_text()) == other
        assert [path.name for path in file.parent.iterdir() if path.name.startswith("lock.pid")] == ["lock.pid"]

    def test_a_file_that_comes_again_each_time_is_the_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = state_folder(tmp_path) / "lock.pid"
        file.write_text("")
        tries: list[Path] = []
        monkeypatch.setattr("bulkdl.storage.destination_lock._remove_if_stale", lambda path, _: tries.append(path))
        with pytest.raises(StorageStopped, match="Another run holds") as refused:
            _lock_without_os_locks(file, tmp_path)
        assert tries == [file, file]
        assert "bulkdl status" in refused.value.hint
