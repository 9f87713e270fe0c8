"""File names from URLs, from `Content-Disposition` and from the manifest.

A name that a server chose is made safe. A `file` in the manifest is the user's choice: it is refused if it would leave
the destination, and otherwise used unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

if TYPE_CHECKING:
    from bulkdl.core.urls import Url

__all__ = [
    "FALLBACK",
    "HARMLESS",
    "STATE_FOLDER",
    "check_relative",
    "fold",
    "from_content_disposition",
    "from_url",
    "is_reserved",
    "normalise",
    "safe_component",
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
_EXTENDED = re.compile(r"([A-Za-z0-9_.:+-]+)'[^']*'(.*)", re.DOTALL)


def from_url(url: Url) -> str:
    """Return the last path segment, percent-decoded and made safe; `download` if the path has none."""
    return _from_segment(url.path.rpartition("/")[2])


@lru_cache(maxsize=256)
def _from_segment(segment: str) -> str:
    return safe_component(unquote(segment, errors="replace"))


def from_content_disposition(value: str) -> str | None:
    """Return the file name of a `Content-Disposition` (RFC 6266 §4.3), made safe; None if it has none.

    `filename*` (RFC 8187) takes precedence over `filename`. Of a path only the last component counts, whether it uses
    slashes or backslashes.
    """
    if not value:
        return None
    parameters = _parameters(value)
    names = (_decode_extended(parameters.get("filename*", "")), _decode_plain(parameters.get("filename", "")))
    for name in names:
        last = re.split(r"[/\\]", name.strip())[-1].strip()
        if last.strip(". "):
            return safe_component(last)
    return None


def safe_component(name: str) -> str:
    """Return the path component closest to `name` that all common file systems accept.

    It has at most 255 bytes of UTF-8 and keeps the suffix. It is never empty, `.`, `..`, a Windows device or `.bulkdl`.
    """
    safe = _FORBIDDEN.sub("_", name).strip().rstrip(". ")
    if not safe:
        return FALLBACK
    if is_reserved(safe) or safe.casefold() == STATE_FOLDER:
        safe = f"_{safe}"
    return _shorten(safe)


def is_reserved(component: str) -> bool:
    """Return whether Windows treats this name as a device (`aux.zip`, `COM1`)."""
    return _RESERVED.fullmatch(component) is not None


def check_relative(text: str) -> str | None:
    """Return why `text` is not allowed as a manifest's `file`, as the end of a sentence; None if it is allowed.

    Manifests are shared between machines, so a path that would leave the destination on one system is refused on all.
    """
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


def _in_state_folder(steps: list[str]) -> bool:
    """Return whether the path components begin with bulkdl's own folder; Windows ignores trailing dots."""
    first = next((step for step in steps if step not in {"", "."}), "")
    return first.rstrip(". ").casefold() == STATE_FOLDER


def normalise(text: str) -> str:
    """Return a path that passed `check_relative` without empty and `.` components: one spelling for each file."""
    if "//" not in text and "/." not in text and not text.startswith("."):
        return text
    return "/".join(part for part in text.split("/") if part not in {"", "."})


def fold(name: str) -> str:
    """Return a key that is equal for two names of one file where case or Unicode form is ignored (Windows, macOS)."""
    if name.isascii():
        lower = name.lower()
        return name if name == lower else lower  # share one string: very many names are kept in memory
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _parameters(value: str) -> dict[str, str]:
    """Return the parameters after the disposition type; the first of each name wins. Broken quoting is tolerated."""
    found: dict[str, str] = {}
    rest = value if re.match(r"\s*filename\*?\s*=", value, re.IGNORECASE) else value.partition(";")[2]
    while rest.strip():
        name, equals, rest = rest.partition("=")
        if not equals:
            break
        name = name.rpartition(";")[2].strip().lower()
        text, rest = _value(rest.lstrip())
        found.setdefault(name, text)
    return found


def _value(rest: str) -> tuple[str, str]:
    """Return a parameter's unquoted value and the rest of the text."""
    if not rest.startswith('"'):
        text, _, after = rest.partition(";")
        return text.strip(), after
    quoted = re.match(r'"((?:[^"\\]|\\.)*)"?', rest, re.DOTALL)
    body = quoted[1] if quoted else rest[1:]
    after = rest[quoted.end() :] if quoted else ""
    # Unescape only quotes and backslashes: old servers send `C:\dir\a.zip`, which must keep its separators.
    return re.sub(r'\\(["\\])', r"\1", body), after.partition(";")[2]


def _decode_extended(text: str) -> str:
    found = _EXTENDED.fullmatch(text.strip())
    if found is None:
        return ""
    try:
        return unquote_to_bytes(found[2]).decode(found[1])
    except (LookupError, ValueError):
        return ""


def _decode_plain(text: str) -> str:
    """Decode a plain `filename`: it arrives as Latin-1 or with surrogates, and many servers mean UTF-8."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return text
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text


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
