"""One run at a time on a destination: a lock of the operating system, which ends with the process that holds it.

Who holds it stands in a file beside it, for the message to whoever comes second. Where the file system has no locks,
a file that only one process can create takes their place.
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
from bulkdl.storage.lock_owner import HELD, Owner, here, may_live, read_owner, write_owner
from bulkdl.storage.os_errors import FULL, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["DestinationLock"]

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.ENOSYS)})


class DestinationLock:
    """Holds a destination in a `with` or `async with` block; entering raises `StorageStopped` if another run has it."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self.took_over: Owner | None = None
        """The run that ended without giving the destination back, such as one that was killed."""
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
        """Take the lock at once or raise `StorageStopped`; never waits."""
        folder = state_folder(self._destination)
        owner_file = folder / "owner.json"
        try:
            release = self._take(folder, owner_file)
            try:
                self.took_over = read_owner(owner_file)
                with _full_disk_is_fine():
                    write_owner(owner_file)
            except BaseException:
                release()
                raise
        except OSError as error:
            raise stopped(error, path=folder / "lock", what="lock", root=self._destination) from error
        self._release = release

    def release(self) -> None:
        """Give the destination back; a second time does nothing."""
        release, self._release = self._release, None
        if release is None:
            return
        with suppress(OSError):  # left behind, it is only taken for that of a run that was killed
            (self._destination / ".bulkdl" / "owner.json").unlink()
        release()

    def _take(self, folder: Path, owner_file: Path) -> Callable[[], None]:
        lock = filelock.FileLock(folder / "lock", thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise _held(self._destination, read_owner(owner_file)) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            return _take_without_locks(folder / "lock.pid", self._destination)
        return lock.release


def _held(destination: Path, owner: Owner | None, *, hint: str = "") -> StorageStopped:
    who = f": {owner}" if owner else ""
    return StorageStopped(
        f"Another run holds the destination '{destination}'{who}",
        hint=hint or "Wait for it or end it, look at it with `bulkdl status`, or choose another destination with -d",
    )


@contextmanager
def _full_disk_is_fine() -> Iterator[None]:
    """Who holds the lock is only for people to read: a run on a full disk may still free some of it."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


# --- File systems without locks ---------------------------------------------------------------------------------------


def _take_without_locks(path: Path, destination: Path) -> Callable[[], None]:
    for _ in range(2):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            _drop_if_dead(path, destination)
            continue
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(asdict(here()), file)
        HELD.add(str(path))
        return lambda: _give_back(path)
    raise _held(destination, read_owner(path))


def _give_back(path: Path) -> None:
    HELD.discard(str(path))
    path.unlink(missing_ok=True)


def _drop_if_dead(path: Path, destination: Path) -> None:
    """Remove the file of a process that is gone; raise `StorageStopped` where it lives or nobody can tell."""
    owner = read_owner(path)
    if owner is None or may_live(owner, path):
        raise _held(destination, owner, hint=f"If that run has ended, delete '{path}' and run again")
    grave = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.rename(grave)  # only one of several can do this
    if read_owner(grave) != owner:  # and it was not the dead one's any more
        grave.rename(path)
        raise _held(destination, read_owner(path))
    grave.unlink()
