"""Model of a power cut: record all file operations of a run, then construct any state the disk may be left in.

`Trace` records each call that changes a destination, while the files are really written. From the calls before an
instant, `Trace.wreck` constructs a state that a power cut at that instant may leave:

- each page written since the last fsync of its file may be old, new or of any state between, in any order; the length
  may be of another moment than the pages, and pages that were never written read as zeros;
- names created, renamed or removed since the last fsync of their folder may be as before; changes may be lost in any
  order, but a rename happens completely or not at all;
- file times are certain only after a full fsync;
- acknowledged journal changes stay, others may be present or not (SQLite with `synchronous = FULL`).
"""

from __future__ import annotations

import functools
import os
import random
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkdl.journal.journal import Journal
from bulkdl.journal.pending_moves import done_entry, placing_entry
from bulkdl.journal.records import Entry, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

__all__ = ["Trace", "Wreck", "Write"]

_PAGES = (512, 4096, 65536)


@dataclass(slots=True, eq=False)
class Inode:
    """A file or folder, independent of its names."""

    base: bytes = b""
    """Durable content before the trace began."""
    mtime_ns: int = 1_600_000_000_000_000_000
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    inode: Inode
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    inode: Inode
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    inode: Inode
    mtime_ns: int | None
    """Durable modification time; None if this sync does not cover times."""


@dataclass(frozen=True, slots=True)
class SyncFolder:
    folder: str


@dataclass(frozen=True, slots=True)
class Names:
    """Atomic change of names: path -> new inode, None for a removed name."""

    changes: tuple[tuple[str, Inode | None], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A journal change that was requested (`done` False) or acknowledged."""

    number: int
    entry: Entry | str
    """The new entry, or the id that is deleted."""
    done: bool


@dataclass(frozen=True, slots=True)
class Wreck:
    """State of a destination after a power cut."""

    files: dict[str, tuple[bytes, int]]
    """Relative path -> content and mtime in ns."""
    twins: tuple[tuple[str, str], ...]
    """Groups of names that belong to one file."""
    folders: tuple[str, ...]
    entries: dict[str, Entry]
    acknowledged: frozenset[str]
    """Ids of products that the journal had acknowledged as done before the cut."""

    async def build(self, root: Path, clock: Any) -> None:
        """Create this state below `root`, which must not exist yet."""
        self._lay_out(root)
        async with Journal.open(root, clock=clock) as journal:
            for entry in self.entries.values():
                journal.put_unsynced(entry)

    def _lay_out(self, root: Path) -> None:
        root.mkdir()
        for folder in sorted(self.folders):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name, (content, mtime_ns) in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, ns=(mtime_ns, mtime_ns))
        for name, twin in self.twins:
            (root / twin).unlink()
            os.link(root / name, root / twin)


@dataclass(slots=True)
class Trace:
    """All calls that changed a destination, in order."""

    root: Path
    ops: list[Any] = field(default_factory=list)
    before: dict[str, Inode] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    """Journal entries before the trace began."""
    _names: dict[str, Inode] = field(default_factory=dict)
    _fds: dict[int, tuple[str, Inode]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)
    _number: int = 0

    # Recording

    @contextmanager
    def recording(self, patch: pytest.MonkeyPatch, *, lose: str = "") -> Iterator[None]:
        """Record while the block runs. `lose` (`data` or `folders`) omits that fsync, so a test can see the loss."""
        self._find_what_is_there()
        with patch.context() as context:
            for name, hook in self._hooks(lose).items():
                context.setattr(os, name, functools.partial(self._locked, hook, getattr(os, name)))
            self._watch_journal(context)
            yield

    def _locked(self, hook: Callable[..., Any], real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with self._lock:
            return hook(real, *arguments, **options)

    def _find_what_is_there(self) -> None:
        seen: dict[int, Inode] = {}
        for path in self.root.rglob("*") if self.root.exists() else ():
            if (name := self._name(path)) is not None:
                folder, facts = path.is_dir(), path.stat()
                made = Inode(b"" if folder else path.read_bytes(), facts.st_mtime_ns, folder=folder)
                self.before[name] = seen.setdefault(facts.st_ino, made)
        self._names = dict(self.before)

    def _name(self, path: Any) -> str | None:
        """Return the relative path; None for files outside, of the journal or of the lock."""
        if not isinstance(path, str | os.PathLike):
            return None
        inside = Path(path)
        if not inside.is_relative_to(self.root):
            return None
        parts = inside.relative_to(self.root).parts
        if parts[:1] == (".bulkdl",) and parts[1:2] != ("partials",) and len(parts) > 1:
            return None
        return "/".join(parts)

    def _hooks(self, lose: str) -> dict[str, Callable[..., Any]]:
        def opened(real: Any, path: Any, flags: int, *more: Any, **options: Any) -> int:
            fd: int = real(path, flags, *more, **options)
            name = self._name(path)
            if name is not None:
                if name not in self._names:
                    self._rename((name, Inode(folder=Path(path).is_dir())))
                self._fds[fd] = (name, self._names[name])
            return fd

        def closed(real: Any, fd: int) -> None:
            self._fds.pop(fd, None)
            real(fd)

        def written(real: Any, fd: int, data: Any, offset: int) -> int:
            count: int = real(fd, data, offset)
            self._on(fd, lambda inode: Write(inode, offset, bytes(data[:count])))
            return count

        def truncated(real: Any, fd: int, size: int) -> None:
            real(fd, size)
            self._on(fd, lambda inode: Cut(inode, size))

        def data_synced(real: Any, fd: int) -> None:
            if lose != "data":
                self._on(fd, lambda inode: Sync(inode, None))

        def synced(real: Any, fd: int) -> None:
            name, inode = self._fds.get(fd, ("", Inode()))
            if inode.folder or (fd in self._fds and not name):
                if lose != "folders":
                    self.ops.append(SyncFolder(name))
            elif lose != "data":
                self._on(fd, lambda inode: Sync(inode, os.fstat(fd).st_mtime_ns))

        def linked(real: Any, source: Any, target: Any, **options: Any) -> None:
            real(source, target, **options)
            if (name := self._name(target)) is not None:
                self._rename((name, self._names[str(self._name(source))]))

        def unlinked(real: Any, path: Any, **options: Any) -> None:
            real(path, **options)
            if (name := self._name(path)) is not None:
                self._rename((name, None))

        def moved(real: Any, source: Any, target: Any, **options: Any) -> None:
            real(source, target, **options)
            if (name := self._name(target)) is not None:
                before = str(self._name(source))
                self._rename((name, self._names[before]), (before, None))

        def made(real: Any, path: Any, *more: Any, **options: Any) -> None:
            real(path, *more, **options)
            if self._name(path):
                self._rename((str(self._name(path)), Inode(folder=True)))

        return {
            "open": opened,
            "close": closed,
            "pwrite": written,
            "ftruncate": truncated,
            "fdatasync": data_synced,
            "fsync": synced,
            "link": linked,
            "unlink": unlinked,
            "replace": moved,
            "rename": moved,
            "mkdir": made,
        }

    def _on(self, fd: int, make: Callable[[Inode], Any]) -> None:
        if fd in self._fds:
            self.ops.append(make(self._fds[fd][1]))

    def _rename(self, *changes: tuple[str, Inode | None]) -> None:
        for name, inode in changes:
            if inode is None:
                self._names.pop(name, None)
            else:
                self._names[name] = inode
        self.ops.append(Names(changes))

    def _watch_journal(self, patch: pytest.MonkeyPatch) -> None:
        told: dict[str, Callable[..., list[Entry | str]]] = {
            "put": lambda entry: [entry],
            "put_all": list,
            "put_moves": lambda moves: list(map(placing_entry, moves)),
            "finish_batch": lambda _batch, moves, left=(): [*map(done_entry, moves), *map(placing_entry, left)],
            "forget": lambda id_: [id_],
        }
        for method, entries_of in told.items():
            real = getattr(Journal, method)

            async def watched(journal: Journal, *args: Any, real: Any = real, entries_of: Any = entries_of) -> Any:
                each = entries_of(*args)
                with self._lock:
                    first = self._number + 1
                    self._number += len(each)
                    self.ops += [Record(number, one, done=False) for number, one in enumerate(each, first)]
                found = await real(journal, *args)
                with self._lock:
                    self.ops += [Record(number, one, done=True) for number, one in enumerate(each, first)]
                return found

            patch.setattr(Journal, method, watched)

    # After the cut

    def killed(self, at: int, *, unacknowledged: bool) -> Wreck:
        """Return the state after a kill just before call `at`: all calls done, unacknowledged commits all or none."""
        return self.wreck(at, _Kind(unacknowledged=unacknowledged))

    def wreck(self, at: int, rng: random.Random) -> Wreck:
        """Return a random state that a power cut just before call `at` may leave."""
        ops = self.ops[:at]
        names = self._surviving_names(ops, rng)
        entries, acknowledged = self._surviving_entries(ops, rng)
        folders = {name for name, inode in names.items() if inode.folder}
        reachable = {n: i for n, i in names.items() if all(p in folders for p in _parents(n))}
        first: dict[int, str] = {}
        for name, inode in reachable.items():
            first.setdefault(id(inode), name)
        contents = {name: _content(reachable[name], ops, rng) for name in first.values() if not reachable[name].folder}
        files = {name: contents[first[id(inode)]] for name, inode in reachable.items() if not inode.folder}
        return Wreck(
            files=files,
            twins=tuple((first[id(i)], n) for n, i in reachable.items() if first[id(i)] != n),
            folders=tuple(n for n, i in reachable.items() if i.folder and n),
            entries=entries,
            acknowledged=acknowledged,
        )

    def _surviving_names(self, ops: list[Any], rng: random.Random) -> dict[str, Inode]:
        pending: dict[int, set[str]] = {}
        for number, op in enumerate(ops):
            if isinstance(op, Names):
                pending[number] = {_folder(name) for name, _ in op.changes}
            elif isinstance(op, SyncFolder):
                for left in pending.values():
                    left.discard(op.folder)
        volatile = [number for number, left in pending.items() if left]
        lost = set(_lost(volatile, rng))
        names = dict(self.before)
        for number in pending:
            for name, inode in ops[number].changes if number not in lost else ():
                if inode is None:
                    names.pop(name, None)
                else:
                    names[name] = inode
        return names

    def _surviving_entries(self, ops: list[Any], rng: random.Random) -> tuple[dict[str, Entry], frozenset[str]]:
        known = {op.number for op in ops if isinstance(op, Record) and op.done}
        entries, sure = dict(self.entries), dict(self.entries)
        for op in ops:
            if not isinstance(op, Record) or op.done or (op.number not in known and rng.random() >= 0.5):
                continue
            for state in (entries, sure) if op.number in known else (entries,):
                if isinstance(op.entry, Entry):
                    state[op.entry.id] = op.entry
                else:
                    state.pop(op.entry, None)
        done = {id_ for id_, entry in sure.items() if entry.phase is Phase.DONE and entries.get(id_) is entry}
        return entries, frozenset(done)


class _Kind(random.Random):
    """Stand-in for `random.Random` that loses nothing."""

    def __init__(self, *, unacknowledged: bool) -> None:
        super().__init__(0)
        self._value = 0.9 if unacknowledged else 0.1

    def random(self) -> float:
        return self._value

    def randrange(self, *arguments: int) -> int:
        return 1  # lose nothing

    def choice(self, options: Any) -> Any:
        return options[-1]  # the latest version


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _lost(volatile: list[int], rng: random.Random) -> list[int]:
    """Choose the lost changes among those not durable: all, none, those after some instant, or a random subset."""
    match rng.randrange(4):
        case 0:
            return volatile
        case 1:
            return []
        case 2:
            return volatile[rng.randrange(len(volatile) + 1) :]
        case _:
            return [number for number in volatile if rng.random() < 0.5]


def _content(inode: Inode, ops: list[Any], rng: random.Random) -> tuple[bytes, int]:
    versions, mtime_ns = [inode.base], inode.mtime_ns
    for op in ops:
        if isinstance(op, Write | Cut) and op.inode is inode:
            versions.append(_after(versions[-1], op))
            mtime_ns = rng.randrange(1, 2**60)  # a random value: no code may rely on it
        elif isinstance(op, Sync) and op.inode is inode:
            versions = versions[-1:]
            mtime_ns = op.mtime_ns if op.mtime_ns is not None else mtime_ns
    return _torn(versions, rng), mtime_ns


def _after(content: bytes, op: Write | Cut) -> bytes:
    if isinstance(op, Cut):
        return content[: op.size].ljust(op.size, b"\0")
    head = content[: op.offset].ljust(op.offset, b"\0")
    return head + op.data + content[op.offset + len(op.data) :]


def _torn(versions: list[bytes], rng: random.Random) -> bytes:
    """Return a torn content: the length of one version, each page of any version."""
    if len(versions) == 1 or rng.random() < 0.2:
        return versions[-1]
    page, size = rng.choice(_PAGES), len(rng.choice(versions))
    pages = (rng.choice(versions)[at : at + page] for at in range(0, size, page))
    return b"".join(part.ljust(page, b"\0") for part in pages)[:size]
