"""Type and limits of the file system below a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["largest_file", "network_filesystem"]


_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "beegfs_nodev", "ceph", "cifs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"}
)


_FAT: Final = frozenset({"msdos", "vfat", "fuse.fusefat"})


_FAT_LARGEST: Final = (1 << 32) - 1
"""Size limit of one file on FAT: 4 GiB minus one byte."""


_LOCAL_FUSE: Final = frozenset(
    f"fuse.{name}" for name in ("fuse-overlayfs", "gocryptfs", "encfs", "mergerfs", "bindfs")
)


def network_filesystem(path: Path, mountinfo: str | None = None) -> str:
    """Return the type of the network file system of `path` (`nfs4`, `fuse.sshfs`…), "" for a local or unknown one.

    `mountinfo` is the text of Linux's /proc/self/mountinfo (proc(5)), by default that of this process. Other systems
    have no such file, so nothing is detected there. The journal needs this because SQLite's write-ahead log needs
    memory shared by all its readers, which network file systems do not provide.
    """
    kind = _filesystem(path, mountinfo)
    network = kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)
    return kind if network else ""


def largest_file(path: Path, mountinfo: str | None = None) -> int | None:
    """Return the size limit of a file below `path` in bytes, by file system and process limit; None if unlimited."""
    limits = [_FAT_LARGEST] if _filesystem(path, mountinfo) in _FAT else []
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not on Windows

        own = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        limits += [own] if own != resource.RLIM_INFINITY else []
    return min(limits, default=None)


def _filesystem(path: Path, mountinfo: str | None) -> str:
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    target = os.path.realpath(path)
    best, kind = "", ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        mount, fstype = _unescape(fields.split(" ")[4:5]), rest.partition(" ")[0]
        inside = mount in ("/", target) or target.startswith(f"{mount}/")
        if mount and inside and len(mount) >= len(best):  # a later mount hides an earlier one at the same mount point
            best, kind = mount, fstype
    return kind


def _unescape(mount: list[str]) -> str:
    r"""Decode the octal escapes of mountinfo: space, tab, newline and backslash (`\040` and so on)."""
    text = "".join(mount)
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
