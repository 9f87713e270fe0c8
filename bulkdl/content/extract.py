"""Unpack an archive that has verified into a folder beside it: whole or not at all, and never outside that folder.

An archive with one bad member is refused as a whole; nothing is skipped in silence. Symbolic links are made last, so
no file is ever written through one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import unicodedata
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.content.errors import bad_content
from bulkdl.content.tar_files import open_tar
from bulkdl.content.zip_files import open_zip, read_member
from bulkdl.core.errors import ProductFailed
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.core.thread_pool import CancellableThreadPool
from bulkdl.storage.filesystem import sync_folder

if TYPE_CHECKING:
    import tarfile
    import zipfile
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bulkdl.core.thread_pool import Stop

__all__ = ["DEFAULT_LIMITS", "Limits", "extract", "folder_for"]

_SUFFIX = re.compile(r"\.(zip|kmz|tgz|tbz2|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")
_NAME_AT_FAULT = frozenset(
    {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTEMPTY}
)
_MOST_LINK = 4096  # bytes of a link's target

_threads = CancellableThreadPool("bulkdl-extract", workers=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may grow to before it counts as a bomb."""

    ratio: int = 200
    """Unpacked bytes for each byte of the archive."""
    floor: int = 256 * 1024 * 1024
    """Unpacked bytes that any archive may have, whatever its ratio: masks of zeros pack well."""
    members: int = 1_000_000


DEFAULT_LIMITS = Limits()


def folder_for(name: str) -> str:
    """The folder that the archive `name` is unpacked into: its name without the suffix, always another name."""
    folder = _SUFFIX.sub("", name)
    return folder if folder != name and folder.rpartition("/")[2] else f"{name}.extracted"


async def extract(
    archive: Path,
    target_folder: Path,
    *,
    limit: Limits = DEFAULT_LIMITS,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Unpack a zip or a tar (plain, gzip, bzip2, xz) into `target_folder`; return the bytes of its files.

    A `target_folder` that exists was unpacked whole by an earlier run: it stays as it is, and 0 is returned. An archive
    whose one top folder has the target's name is not nested twice. `progress` is called on a worker thread with the
    bytes of the archive just read. Raise `ProductFailed` (content) for an archive that is broken, leaves its folder,
    or is a bomb; `ProductFailed` (conflict) where a file has the folder's name; `OSError` as it comes (ENOSPC).
    """
    return await _threads.run(lambda stop: _extract(archive, target_folder, limit, stop, progress or _silent))


def _silent(_read: int) -> None:
    pass


def _extract(archive: Path, target: Path, limit: Limits, stop: Stop, progress: Callable[[int], None]) -> int:
    if target.is_dir():
        return 0
    if os.path.lexists(target):
        raise ProductFailed(
            f"{archive.name} cannot be unpacked: there is a file named {target.name}",
            kind=FailureKind.CONFLICT,
            hint="Move it away and run again",
        )
    half = target.with_name(_half_name(target.name))
    _remove(half)  # of a run that was killed
    half.mkdir(parents=True)
    try:
        unpacking = _Unpacking(half, archive, limit, stop)
        _unpack(archive, unpacking, progress)
        whole = unpacking.finish(target.name)
        _put_in_place(half, whole, target)
    except ProductFailed as exc:
        raise ProductFailed(f"{archive.name} cannot be unpacked: {exc.reason}", kind=exc.kind, hint=exc.hint) from exc
    finally:
        _remove(half)
    return unpacking.total


def _half_name(name: str) -> str:
    """The same in every run, so that what a killed run left is found."""
    spelt = f".{name}.extracting"
    return spelt if len(os.fsencode(spelt)) <= 255 else f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.extracting"


def _remove(folder: Path) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(half: Path, whole: Path, target: Path) -> None:
    for folder, _, _ in os.walk(half, topdown=False):
        sync_folder(folder)
    with _names_at_fault(target.name):
        whole.rename(target)
    sync_folder(target.parent)


def _unpack(archive: Path, unpacking: _Unpacking, progress: Callable[[int], None]) -> None:
    with archive.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if not is_zip:
        with open_tar(archive, stop=unpacking.stop, progress=progress) as tar:
            for member in tar.members():
                unpacking.add(_tar_entry(member), tar.read(member))
        return
    with open_zip(archive) as opened:
        infos = opened.infolist()
        unpacking.expect(sum(info.file_size for info in infos))
        for info in infos:
            blocks = read_member(opened, info, stop=unpacking.stop, progress=progress)
            entry = _zip_entry(info)
            if entry.kind is _Kind.SYMLINK:
                entry = _Entry(info.filename, _Kind.SYMLINK, target=_link_target(info, blocks))
            unpacking.add(entry, blocks)


class _Kind(Enum):
    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    kind: _Kind
    size: int = 0
    target: str = ""
    executable: bool = False


def _zip_entry(info: zipfile.ZipInfo) -> _Entry:
    mode = info.external_attr >> 16 if info.create_system == 3 else 0  # 3: made on Unix
    if stat.S_ISLNK(mode):
        return _Entry(info.filename, _Kind.SYMLINK)
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise bad_content(f"member {info.filename!r} is a device or the like")
    if info.is_dir():
        return _Entry(info.filename, _Kind.FOLDER)
    return _Entry(info.filename, _Kind.FILE, size=info.file_size, executable=bool(mode & stat.S_IXUSR))


def _link_target(info: zipfile.ZipInfo, blocks: Iterator[bytes]) -> str:
    if info.file_size > _MOST_LINK:
        raise bad_content(f"member {info.filename!r} is a link with a target of {info.file_size} bytes")
    return os.fsdecode(b"".join(blocks))


def _tar_entry(member: tarfile.TarInfo) -> _Entry:
    if member.isdir():
        return _Entry(member.name, _Kind.FOLDER)
    if member.issym():
        return _Entry(member.name, _Kind.SYMLINK, target=member.linkname)
    if member.islnk():
        return _Entry(member.name, _Kind.HARDLINK, target=member.linkname)
    if not member.isreg():
        raise bad_content(f"member {member.name!r} is a device or the like")
    return _Entry(member.name, _Kind.FILE, size=member.size, executable=bool(member.mode & stat.S_IXUSR))


class _Unpacking:
    """The state of one archive on its way into one folder."""

    def __init__(self, root: Path, archive: Path, limit: Limits, stop: Stop) -> None:
        self.stop = stop
        self.total = 0
        self._root = root
        self._most = max(limit.floor, limit.ratio * archive.stat().st_size)
        self._members_left = limit.members
        self._tops: set[str] = set()
        self._links: dict[tuple[str, ...], tuple[tuple[str, ...], str]] = {}

    def expect(self, size: int) -> None:
        """Refuse what cannot end well before it is begun: a bomb, or more than the disk has room for."""
        if self.total + size > self._most:
            raise bad_content(f"it unpacks to more than {self._most} bytes, which is too much for its size")
        if size > shutil.disk_usage(self._root).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._root))

    def add(self, entry: _Entry, blocks: Iterator[bytes]) -> None:
        self.stop.check()
        self._members_left -= 1
        if self._members_left < 0:
            raise bad_content("it has too many members")
        parts = _parts(entry.name)
        if not parts and entry.kind is not _Kind.FOLDER:
            raise bad_content(f"member {entry.name!r} has no name")
        if len(self._tops) < 2:  # more says no more
            self._tops.update(parts[:1])
        match entry.kind:
            case _Kind.FOLDER:
                with _names_at_fault(entry.name):
                    self._path(parts).mkdir(parents=True, exist_ok=True)
            case _Kind.SYMLINK:
                self._keep_link(parts, entry)
            case _Kind.HARDLINK:
                self._write(parts, entry, self._linked(entry))
            case _Kind.FILE:
                self.expect(entry.size)
                self._write(parts, entry, blocks)

    def finish(self, name: str) -> Path:
        """Make the links; return what is to become the folder `name`: the root, or its one folder of that name.

        Each link must end inside what is returned, without passing through another link.
        """
        top = self._root / name
        whole = top if self._tops == {name} and top.is_dir() else self._root
        for parts, target in self._links.values():
            self._check_link(parts, target, depth=0 if whole is self._root else 1)
            with _names_at_fault("/".join(parts)):
                path = self._path(parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(target)
        return whole

    def _path(self, parts: tuple[str, ...]) -> Path:
        return self._root.joinpath(*parts)

    def _write(self, parts: tuple[str, ...], entry: _Entry, blocks: Iterator[bytes]) -> None:
        path = self._path(parts)
        with _names_at_fault(entry.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        with file:
            for block in blocks:
                self.stop.check()
                self.total += len(block)
                if self.total > self._most:
                    raise bad_content(f"it unpacks to more than {self._most} bytes, which is too much for its size")
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if entry.executable:
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | (mode & 0o444) >> 2)

    def _linked(self, entry: _Entry) -> Iterator[bytes]:
        """A hard link is a copy of a member that came before; no link leads out, since none is made yet."""
        source = self._path(_parts(entry.target))
        if not source.is_file():
            raise bad_content(f"member {entry.name!r} is a link to {entry.target!r}, which does not come before it")
        with source.open("rb") as file:
            while block := file.read(1024 * 1024):
                yield block

    def _keep_link(self, parts: tuple[str, ...], entry: _Entry) -> None:
        key = _folded(parts)
        if key in self._links:
            raise bad_content(f"member {entry.name!r} comes twice")
        self._links[key] = (parts, entry.target)

    def _check_link(self, parts: tuple[str, ...], target: str, *, depth: int) -> None:
        outside = bad_content(f"member {'/'.join(parts)!r} is a link that leaves its folder")
        steps = target.replace("\\", "/")
        if not steps or steps.startswith("/") or _DRIVE.match(steps) or not _printable(steps):
            raise outside
        at = list(parts[:-1])
        for step in steps.split("/"):
            if _folded(at) in self._links:
                raise outside  # what `..` means behind another link cannot be told from names
            if step == "..":
                if len(at) <= depth:
                    raise outside
                at.pop()
            elif step not in {"", "."}:
                at.append(step)


def _parts(name: str) -> tuple[str, ...]:
    """A member's place below the folder; raise `ProductFailed` for a name that leads elsewhere on any system."""
    spelt = name.replace("\\", "/")
    if spelt.startswith("/") or _DRIVE.match(spelt):
        raise bad_content(f"member {name!r} has an absolute path")
    parts = tuple(part for part in spelt.split("/") if part not in {"", "."})
    if ".." in parts:
        raise bad_content(f"member {name!r} leaves its folder")
    if not _printable(name):
        raise bad_content(f"member {name!r} has control characters in its name")
    return parts


def _printable(name: str) -> bool:
    return not any(ord(c) < 32 or ord(c) == 127 for c in name)


def _folded(parts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """As a file system that ignores case and composition compares names."""
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)


@contextmanager
def _names_at_fault(name: str) -> Iterator[None]:
    """A name that the file system cannot have, or has already, is the archive's fault and not the disk's."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _NAME_AT_FAULT:
            raise bad_content(f"member {name!r} has no place there: {os.strerror(exc.errno)}") from exc
        raise
    except ValueError as exc:
        raise bad_content(f"member {name!r} has a name that this system cannot write") from exc
