"""Unpack a verified archive into a folder beside it: completely or not at all, and never outside that folder.

If one member is bad, the whole archive is refused; no member is skipped silently. Symbolic links are created last, so
that no file can be written through one.
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
from bulkdl.content.single_file import SINGLE_SUFFIX, unpack_single
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

__all__ = ["DEFAULT_LIMITS", "Limits", "extract", "folder_for", "is_single"]

_SUFFIX = re.compile(r"\.(zip|kmz|tgz|tbz2|txz|tar(\.(gz|bz2|xz))?)$", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")
_BAD_NAME_ERRNOS = frozenset(
    {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTEMPTY}
)
_MAX_LINK_BYTES = 4096  # bytes of a link's target

_threads = CancellableThreadPool("bulkdl-extract", workers=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits above which an archive counts as a decompression bomb."""

    ratio: int = 200
    """Unpacked bytes per byte of the archive."""
    floor: int = 256 * 1024 * 1024
    """Unpacked bytes that every archive may have, at any ratio, because masks of zeros compress very well."""
    members: int = 1_000_000


DEFAULT_LIMITS = Limits()


def folder_for(name: str) -> str:
    """Return the folder for the archive `name`: the name without its suffix, never the same name.

    For a single compressed file, such as `a.nc.gz`, it is the name of the file.
    """
    folder = (SINGLE_SUFFIX if is_single(name) else _SUFFIX).sub("", name)
    return folder if folder != name and folder.rpartition("/")[2] else f"{name}.extracted"


def is_single(name: str) -> bool:
    """Tell whether the name is that of a single compressed file, not of an archive."""
    return _SUFFIX.search(name) is None and SINGLE_SUFFIX.search(name) is not None


async def extract(
    archive: Path,
    target_folder: Path,
    *,
    limit: Limits = DEFAULT_LIMITS,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Unpack a zip or a tar (plain, gzip, bzip2, xz) into `target_folder`; return the bytes of its files.

    The name of a single compressed file tells that it becomes a file of that name instead (`unpack_single`).

    If `target_folder` exists, an earlier run unpacked it completely: leave it and return 0. If the archive's only top
    folder has the target's name, it becomes the target. `progress` is called on a worker thread with the bytes of the
    archive just read. Raise `ProductFailed` (content) if the archive is broken, has a member outside its folder, or is
    a bomb; `ProductFailed` (conflict) if a file has the folder's name. An `OSError` (ENOSPC) passes unchanged.
    """
    return await _threads.run(lambda stop: _extract(archive, target_folder, limit, stop, progress or _no_progress))


def _no_progress(_read: int) -> None:
    pass


def _extract(archive: Path, target: Path, limit: Limits, stop: Stop, progress: Callable[[int], None]) -> int:
    temporary = target.with_name(_temporary_name(target.name))
    if is_single(archive.name):
        most = max(limit.floor, limit.ratio * archive.stat().st_size)
        with _naming(archive):
            _remove(temporary)  # left by a killed run
            return unpack_single(archive, target, temporary=temporary, most=most, stop=stop, progress=progress)
    if target.is_dir():
        return 0
    if os.path.lexists(target):
        raise ProductFailed(
            f"{archive.name} cannot be unpacked: a file is in the way of the folder {target.name}",
            kind=FailureKind.CONFLICT,
            hint="Move that file away and run again",
        )
    _remove(temporary)  # left by a killed run
    temporary.mkdir(parents=True)
    try:
        with _naming(archive):
            unpacking = _Unpacking(temporary, archive, limit, stop)
            _unpack(archive, unpacking, progress)
            unpacked = unpacking.finish(target.name)
            _move_into_place(temporary, unpacked, target)
    finally:
        _remove(temporary)
    return unpacking.total


@contextmanager
def _naming(archive: Path) -> Iterator[None]:
    try:
        yield
    except ProductFailed as exc:
        raise ProductFailed(f"{archive.name} cannot be unpacked: {exc.reason}", kind=exc.kind, hint=exc.hint) from exc


def _temporary_name(name: str) -> str:
    """Return the temporary folder's name; the same in every run, so that leftovers of a killed run are found."""
    spelled = f".{name}.extracting"
    return (
        spelled if len(os.fsencode(spelled)) <= 255 else f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.extracting"
    )


def _remove(temporary: Path) -> None:
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def _move_into_place(temporary: Path, unpacked: Path, target: Path) -> None:
    for folder, _, _ in os.walk(temporary, topdown=False):
        sync_folder(folder)
    with _bad_name_errors(target.name):
        unpacked.rename(target)
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
        raise bad_content(f"member {info.filename!r} is a device or another special file")
    if info.is_dir():
        return _Entry(info.filename, _Kind.FOLDER)
    return _Entry(info.filename, _Kind.FILE, size=info.file_size, executable=bool(mode & stat.S_IXUSR))


def _link_target(info: zipfile.ZipInfo, blocks: Iterator[bytes]) -> str:
    if info.file_size > _MAX_LINK_BYTES:
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
        raise bad_content(f"member {member.name!r} is a device or another special file")
    return _Entry(member.name, _Kind.FILE, size=member.size, executable=bool(member.mode & stat.S_IXUSR))


class _Unpacking:
    """The state while one archive is unpacked into one folder."""

    def __init__(self, root: Path, archive: Path, limit: Limits, stop: Stop) -> None:
        self.stop = stop
        self.total = 0
        self._root = root
        self._max_bytes = max(limit.floor, limit.ratio * archive.stat().st_size)
        self._members_left = limit.members
        self._top_names: set[str] = set()
        self._links: dict[tuple[str, ...], tuple[tuple[str, ...], str]] = {}

    def expect(self, size: int) -> None:
        """Raise before writing if `size` more bytes would make a bomb or exceed the free disk space."""
        if self.total + size > self._max_bytes:
            raise bad_content(f"it unpacks to more than {self._max_bytes} bytes, which is too much for its size")
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
        if len(self._top_names) < 2:  # two are enough to know that there is no single top folder
            self._top_names.update(parts[:1])
        match entry.kind:
            case _Kind.FOLDER:
                with _bad_name_errors(entry.name):
                    self._path(parts).mkdir(parents=True, exist_ok=True)
            case _Kind.SYMLINK:
                self._remember_link(parts, entry)
            case _Kind.HARDLINK:
                self._write(parts, entry, self._hard_link_bytes(entry))
            case _Kind.FILE:
                self.expect(entry.size)
                self._write(parts, entry, blocks)

    def finish(self, name: str) -> Path:
        """Create the links and return the folder to rename to `name`: the root, or its only folder of that name.

        Each link must point into the returned folder, without passing through another link.
        """
        top = self._root / name
        unpacked = top if self._top_names == {name} and top.is_dir() else self._root
        for parts, target in self._links.values():
            self._check_link(parts, target, depth=0 if unpacked is self._root else 1)
            with _bad_name_errors("/".join(parts)):
                path = self._path(parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(target)
        return unpacked

    def _path(self, parts: tuple[str, ...]) -> Path:
        return self._root.joinpath(*parts)

    def _write(self, parts: tuple[str, ...], entry: _Entry, blocks: Iterator[bytes]) -> None:
        path = self._path(parts)
        with _bad_name_errors(entry.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        with file:
            for block in blocks:
                self.stop.check()
                self.total += len(block)
                if self.total > self._max_bytes:
                    raise bad_content(
                        f"it unpacks to more than {self._max_bytes} bytes, which is too much for its size"
                    )
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if entry.executable:
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | (mode & 0o444) >> 2)

    def _hard_link_bytes(self, entry: _Entry) -> Iterator[bytes]:
        """Yield the earlier member's bytes for a hard link, which becomes a copy. No symbolic link exists yet."""
        source = self._path(_parts(entry.target))
        if not source.is_file():
            raise bad_content(f"member {entry.name!r} is a link to {entry.target!r}, which is not an earlier member")
        with source.open("rb") as file:
            while block := file.read(1024 * 1024):
                yield block

    def _remember_link(self, parts: tuple[str, ...], entry: _Entry) -> None:
        key = _folded(parts)
        if key in self._links:
            raise bad_content(f"member {entry.name!r} appears twice")
        self._links[key] = (parts, entry.target)

    def _check_link(self, parts: tuple[str, ...], target: str, *, depth: int) -> None:
        outside = bad_content(f"member {'/'.join(parts)!r} is a link that points outside the folder")
        steps = target.replace("\\", "/")
        if not steps or steps.startswith("/") or _DRIVE.match(steps) or not _printable(steps):
            raise outside
        at = list(parts[:-1])
        for step in steps.split("/"):
            if _folded(at) in self._links:
                raise outside  # names alone cannot tell where `..` leads after another link
            if step == "..":
                if len(at) <= depth:
                    raise outside
                at.pop()
            elif step not in {"", "."}:
                at.append(step)


def _parts(name: str) -> tuple[str, ...]:
    """Return a member's path parts; raise `ProductFailed` if on any system the name leads outside the folder."""
    spelled = name.replace("\\", "/")
    if spelled.startswith("/") or _DRIVE.match(spelled):
        raise bad_content(f"member {name!r} has an absolute path")
    parts = tuple(part for part in spelled.split("/") if part not in {"", "."})
    if ".." in parts:
        raise bad_content(f"member {name!r} would be written outside the folder")
    if not _printable(name):
        raise bad_content(f"member {name!r} has control characters in its name")
    return parts


def _printable(name: str) -> bool:
    return not any(ord(c) < 32 or ord(c) == 127 for c in name)


def _folded(parts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return the parts as a file system compares them that ignores case and Unicode normalisation."""
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)


@contextmanager
def _bad_name_errors(name: str) -> Iterator[None]:
    """Map an `OSError` about the name to `ProductFailed`: the archive is wrong, not the disk."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _BAD_NAME_ERRNOS:
            raise bad_content(f"member {name!r} cannot be created: {os.strerror(exc.errno)}") from exc
        raise
    except ValueError as exc:
        raise bad_content(f"member {name!r} has a name that this system does not allow") from exc
