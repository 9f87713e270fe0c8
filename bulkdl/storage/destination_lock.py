"""Lock on a destination folder: one run at a time.

An operating-system lock ends with the process that holds it. `owner.json` beside it names the owner, for the message
to a second run. If the file system has no locks, an exclusively created file (`lock.pid`) replaces them.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Self

import filelock

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import StorageStopped
from bulkdl.storage.filesystem import state_folder
from bulkdl.storage.lock_owner import HELD, Owner, may_be_running, read_owner, this_process, write_owner
from bulkdl.storage.os_errors import FULL, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["DestinationLock"]

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.ENOSYS)})


class DestinationLock:
    """Lock on a destination for a `with` or `async with` block; raise `StorageStopped` if another run holds it."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self.took_over: Owner | None = None
        """The previous run, if it ended without releasing the lock (it was killed, for example)."""
        self._release: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await run_to_completion(asyncio.to_thread(self.acquire), undo=lambda _: self.release())
        return self

    async def __aexit__(self, *_: object) -> None:
        await run_to_completion(asyncio.to_thread(self.release))

    def acquire(self) -> None:
        """Acquire the lock at once or raise `StorageStopped`; never wait."""
        folder = state_folder(self._destination)
        owner_file = folder / "owner.json"
        try:
            release = self._lock(folder, owner_file)
            try:
                self.took_over = read_owner(owner_file)
                with _ignore_full_disk():
                    write_owner(owner_file)
            except BaseException:
                release()
                raise
        except OSError as error:
            raise stopped(error, path=folder / "lock", what="lock", root=self._destination) from error
        self._release = release

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        release, self._release = self._release, None
        if release is None:
            return
        with suppress(OSError):  # a file left behind only makes the next run report a killed run
            (self._destination / ".bulkdl" / "owner.json").unlink()
        release()

    def _lock(self, folder: Path, owner_file: Path) -> Callable[[], None]:
        lock = filelock.FileLock(folder / "lock", thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise _held_error(self._destination, read_owner(owner_file)) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            return _lock_without_os_locks(folder / "lock.pid", self._destination)
        return lock.release


def _held_error(destination: Path, owner: Owner | None, *, hint: str = "") -> StorageStopped:
    who = f": {owner}" if owner else ""
    return StorageStopped(
        f"Another run holds the destination '{destination}'{who}",
        hint=hint
        or "Wait for it or stop it; see its progress with `bulkdl status`, or choose another destination with -d",
    )


@contextmanager
def _ignore_full_disk() -> Iterator[None]:
    """Ignore a full disk: `owner.json` is only for people, and a run on a full disk may still free space."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


# --- File systems without locks ---------------------------------------------------------------------------------------


def _lock_without_os_locks(path: Path, destination: Path) -> Callable[[], None]:
    for _ in range(2):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            _remove_if_stale(path, destination)
            continue
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(asdict(this_process()), file)
        HELD.add(str(path))
        return lambda: _release_pid_file(path)
    raise _held_error(destination, read_owner(path))


def _release_pid_file(path: Path) -> None:
    HELD.discard(str(path))
    path.unlink(missing_ok=True)


def _remove_if_stale(path: Path, destination: Path) -> None:
    """Remove the lock file of an ended process; raise `StorageStopped` if it may still be running."""
    owner = read_owner(path)
    if owner is None or may_be_running(owner, path):
        raise _held_error(destination, owner, hint=f"If that run has ended, delete '{path}' and run again")
    stale = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.rename(stale)  # of several processes only one succeeds
    if read_owner(stale) != owner:  # another process had replaced the stale file meanwhile
        stale.rename(path)
        raise _held_error(destination, read_owner(path))
    stale.unlink()
