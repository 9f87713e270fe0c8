"""Write a result to the file that the user named, whatever it is.

A regular file is replaced in one step, so that a reader sees the whole old or the whole new text. A device, a FIFO and a
socket are written to, as a shell does: a rename would put a regular file in the place of `/dev/null` for the whole
machine. A symbolic link stays; its target is replaced.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from bulkdl.core.errors import StorageStopped, UsageError

__all__ = ["descriptor_of", "require_writable", "write_file"]


_DESCRIPTOR = re.compile(r"(?:/dev/fd|/proc/(?:self|thread-self|\d+)/fd)/(\d{1,9})")
_NAMED_DESCRIPTORS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_MOST_LINKS = 40
_ERRORS = "backslashreplace"
"""Treatment of half a surrogate pair, which a file name may have and UTF-8 has not."""


def require_writable(path: Path, what: str) -> None:
    """Raise `UsageError` if `path` cannot be written; `what` names the output, such as "the report".

    Called before the work, which may take hours.
    """
    try:
        fits = descriptor_of(path) is not None or _is_stream(path) or _is_replaceable(_target(path))
    except (OSError, ValueError):  # ValueError: a NUL character
        fits = False
    if not fits:
        raise UsageError(f"{what} {path} cannot be written", hint="Choose a file in a folder that you can write to.")


def write_file(path: Path, text: str, what: str = "") -> None:
    """Write the whole text or none of it; raise `StorageStopped` if this fails."""
    try:
        descriptor = descriptor_of(path)
        if descriptor is not None:
            # A second opening of the same file would have a position of its own, and overwrite what stands there.
            with os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors=_ERRORS) as stream:
                stream.write(text)
        elif _is_stream(path):
            with path.open("w", encoding="utf-8", errors=_ERRORS) as stream:
                stream.write(text)
        else:
            _replace(_target(path), text)
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid path"
        raise StorageStopped(f"{what} {path} cannot be written: {reason}".lstrip()) from error


def _replace(target: Path, text: str) -> None:
    # A short name of its own: the target's name may be as long as a name can be, and NAME.part may be a product's.
    partial = target.with_name(f".bulkdl-{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8", errors=_ERRORS)
        if target.exists():
            partial.chmod(stat.S_IMODE(target.stat().st_mode))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """Return the file that a symbolic link leads to, which need not exist."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _is_stream(path: Path) -> bool:
    """Tell whether `path` exists and is a device, a FIFO or a socket."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_replaceable(target: Path) -> bool:
    return not target.is_dir() and target.parent.is_dir() and os.access(target.parent, os.W_OK)


def descriptor_of(path: Path) -> int | None:
    """Return the number of the open descriptor that `path` names, directly or by a symbolic link."""
    text = os.path.abspath(path)  # noqa: PTH100 - `Path.resolve` would follow the links
    for _ in range(_MOST_LINKS):
        if text in _NAMED_DESCRIPTORS:
            return _NAMED_DESCRIPTORS[text]
        found = _DESCRIPTOR.fullmatch(text)
        if found is not None:
            return int(found[1]) if _is_own(text) else None
        try:
            text = os.path.join(os.path.dirname(text), os.readlink(text))  # noqa: PTH115, PTH118, PTH120
        except OSError:
            return None
    return None


def _is_own(text: str) -> bool:
    """Tell whether a path below `/proc` or `/dev/fd` is about this process."""
    owner = text.split("/")[2]
    return not owner.isdigit() or int(owner) == os.getpid()
