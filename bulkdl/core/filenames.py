"""File names from URLs and from the manifest, and which names are one file.

A name that a server chose is made safe. A `file` in the manifest is the user's choice: it is refused if it would leave
the destination, and otherwise used unchanged.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from bulkdl.core.urls import Url

__all__ = [
    "FALLBACK",
    "HARMLESS",
    "STATE_FOLDER",
    "cannot_be_stored",
    "check_relative",
    "decode_name",
    "fold",
    "from_segment",
    "from_url",
    "is_reserved",
    "normalise",
    "safe_component",
    "split_suffix",
]

STATE_FOLDER = ".bulkdl"
"""Folder in the destination for everything that is not a product: journal, lock, kept bytes, some partials."""
FALLBACK = "download"
_MAX_COMPONENT_BYTES = 255
"""Longest path component that common file systems accept."""
_FORBIDDEN = re.compile(
    '[\x00-\x1f\x7f-\x9f<>:"/|?*\\\\'
    "\u200e\u200f\u2028-\u202e\u2066-\u2069"  # marks that display a name in another order than it is stored
    "\ud800-\udfff]"
)
HARMLESS = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Relative paths without special characters, `.` or `..`: nearly all paths match and need no further check."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DRIVE = re.compile(r"[A-Za-z]:")
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL
)
_SUFFIX = re.compile(r"((?:\.SAFE|\.SEN3|\.tar)?\.[A-Za-z0-9_-]{1,16})$", re.IGNORECASE)
_WINDOWS = os.name == "nt"
_NOT_ON_WINDOWS = re.compile('[<>:"|?*]')
_C1 = re.compile("[\x80-\x9f]")
_IGNORED = re.compile("[\xad\u034f\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
"""Characters that case-insensitive file systems ignore when they compare names (Default_Ignorable_Code_Point)."""


def from_url(url: Url) -> str:
    """Return the last path segment that gives a name, percent-decoded and made safe; `download` if none does."""
    path = url.path
    name = from_segment(path.rpartition("/")[2])
    return name or next((name for part in reversed(path.split("/")) if (name := from_segment(part))), FALLBACK)


@lru_cache(maxsize=256)
def from_segment(segment: str) -> str:
    """Return the safe name that a segment of a URL's path gives; "" for an empty one, or one of dots alone."""
    name = decode_name(unquote_to_bytes(segment)) if "%" in segment else segment
    return safe_component(name) if name.strip().strip(". ") else ""


def decode_name(raw: bytes) -> str:
    """Return the text of a name in UTF-8, else in Latin-1: two different names never become one by U+FFFD."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Control characters would all become `_`; their numbers keep such names apart.
        return _C1.sub(lambda found: f"%{ord(found[0]):02X}", raw.decode("latin-1"))


def safe_component(name: str) -> str:
    """Return the path component closest to `name` that all common file systems accept.

    It has at most 255 bytes of UTF-8 and keeps the suffix. It is never empty, `.`, `..`, a Windows device or `.bulkdl`.
    """
    safe = _FORBIDDEN.sub("_", name).strip().rstrip(". ")
    if not safe.isascii() and cannot_be_stored(safe):
        # Escapes of its bytes keep two names apart, which `_` would not.
        safe = "".join(quote(c, safe="") if cannot_be_stored(c) else c for c in safe)
    if not safe:
        return FALLBACK
    if is_reserved(safe) or safe.casefold() == STATE_FOLDER:
        safe = f"_{safe}"
    return _shorten(safe)


def is_reserved(component: str) -> bool:
    """Return whether Windows treats this name as a device (`aux.zip`, `COM1`)."""
    return _RESERVED.fullmatch(component) is not None


def check_relative(text: str, *, windows: bool = _WINDOWS) -> str | None:
    """Return why `text` is not allowed as a manifest's `file`, as the end of a sentence; None if it is allowed.

    Manifests are shared between machines, so a path that would leave the destination on one system is refused on all.
    A name that only Windows cannot have is refused there (`windows`): `a:b` would be a hidden stream of the file `a`.
    """
    if windows and (problem := _problem_on_windows(text)) is not None:
        return problem
    if len(text) <= _MAX_COMPONENT_BYTES and HARMLESS.fullmatch(text):  # fast path: every check below would pass
        return None
    parts = text.split("/")
    steps = re.split(r"[/\\]", text) if "\\" in text else parts
    if not text.strip():
        return "is empty; expected a relative path such as 2024/S2A.zip"
    if _CONTROL.search(text) or not _encodable(text):
        return "contains a control character"
    if text[0] in "/\\" or _DRIVE.match(text):
        return "is an absolute path; expected one relative to the destination"
    if ".." in text and ".." in [step.strip() for step in steps]:
        return "leaves the destination by `..`; expected a path below it"
    if parts[-1] in {"", "."}:
        return "names a folder; expected the name of a file"
    if _in_state_folder(steps):
        return f"lies in {STATE_FOLDER}, which is reserved for bulkdl"
    if len(text) * 4 > _MAX_COMPONENT_BYTES and any(len(part.encode()) > _MAX_COMPONENT_BYTES for part in parts):
        return f"has a component of more than {_MAX_COMPONENT_BYTES} bytes, which file systems do not accept"
    return None


def cannot_be_stored(path: str) -> str:
    """Return why the locale of this process lets no file have the name `path`; "" if it does.

    Python encodes names by the locale's encoding: Latin-1 has no arrow. `LC_ALL=C` counts as UTF-8 (PEP 538, PEP 540).
    """
    if path.isascii() and "\0" not in path:
        return ""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        lacking = ascii(path[error.start : error.start + 1])
        return f"file names of this process are in {sys.getfilesystemencoding()}, which cannot hold {lacking}"
    return "it contains a NUL character" if b"\0" in encoded else ""


def _problem_on_windows(text: str) -> str | None:
    found = None if _DRIVE.match(text) else _NOT_ON_WINDOWS.search(text)
    if found is not None:
        return f"contains {found[0]}, which file names on Windows cannot have"
    device = next((step for step in re.split(r"[/\\]", text) if is_reserved(step)), None)
    return None if device is None else f"names the device {device} on Windows"


def _in_state_folder(steps: list[str]) -> bool:
    """Return whether the path components begin with bulkdl's own folder; Windows ignores trailing dots."""
    first = next((step for step in steps if step not in {"", "."}), "")
    return first.rstrip(". ").casefold() == STATE_FOLDER


def normalise(text: str, *, windows: bool = _WINDOWS) -> str:
    """Return a path that passed `check_relative` without empty and `.` components: one spelling for each file.

    A backslash is a letter of the name, as POSIX has it, except on Windows, where it separates components.
    """
    if windows and "\\" in text:
        text = text.replace("\\", "/")
    if "//" not in text and "/." not in text and not text.startswith("."):
        return text
    return "/".join(part for part in text.split("/") if part not in {"", "."})


def fold(name: str) -> str:
    """Return a key that is equal for two names that are one file on any common file system.

    Windows and macOS ignore case, macOS also the Unicode form. Windows takes a backslash for a separator, and ignores
    dots and blanks at the end of a component. Names are compared so on every system: a manifest that works on one
    machine then works on all, and no two products ever share a file.
    """
    if "\\" in name or "./" in name or " /" in name or name.endswith((".", " ")):
        steps = (step.rstrip(". ") for step in name.replace("\\", "/").split("/"))
        name = "/".join(step for step in steps if step)
    if name.isascii():
        lower = name.lower()
        return name if name == lower else lower  # share one string: very many names are kept in memory
    name = _IGNORED.sub("", name)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def split_suffix(name: str) -> tuple[str, str]:
    """Return the name without its suffix, and the suffix with its dot (`.tar.gz` and `.SAFE.zip` are one); "" if none."""
    found = _SUFFIX.search(name)
    return (name[: found.start()], found[1]) if found is not None and found.start() else (name, "")


def _shorten(name: str) -> str:
    raw = name.encode()
    if len(raw) <= _MAX_COMPONENT_BYTES:
        return name
    found = _SUFFIX.search(name)
    suffix = found[1] if found else ""
    stem = raw[: _MAX_COMPONENT_BYTES - len(suffix)].decode("utf-8", "ignore")
    return stem.rstrip(". ") + suffix


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
