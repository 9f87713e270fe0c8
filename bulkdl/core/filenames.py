"""File names: from a URL, from `Content-Disposition`, made safe; and what a manifest's own `file` may be.

Names that a server chose are made safe. A name in a manifest is the user's own: it is refused where it would leave the
destination, and else taken as it is.
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
_MOST_BYTES = 255
"""Of one component on the usual file systems."""
_FORBIDDEN = re.compile(
    '[\x00-\x1f\x7f-\x9f<>:"/|?*\\\\'
    "\u200e\u200f\u2028-\u202e\u2066-\u2069"  # marks that make a name read otherwise than it is
    "\ud800-\udfff]"
)
HARMLESS = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Relative paths of which no step can mean anything but itself; nearly all are such."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DRIVE = re.compile(r"[A-Za-z]:")
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL
)
_SUFFIX = re.compile(r"((?:\.SAFE|\.SEN3|\.tar)?\.[A-Za-z0-9_-]{1,16})$", re.IGNORECASE)
_EXTENDED = re.compile(r"([A-Za-z0-9_.:+-]+)'[^']*'(.*)", re.DOTALL)


def from_url(url: Url) -> str:
    """The last segment of the path, percent-decoded and made safe; `download` where there is none."""
    return _from_segment(url.path.rpartition("/")[2])


@lru_cache(maxsize=256)
def _from_segment(segment: str) -> str:
    return safe_component(unquote(segment, errors="replace"))


def from_content_disposition(value: str) -> str | None:
    """The file name in a `Content-Disposition` (RFC 6266 §4.3), made safe; None where it names none.

    `filename*` (RFC 8187) goes before `filename`. Only the last component of a path counts, whichever slash it has.
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
    """One path component that every usual file system takes, as near to `name` as that allows.

    At most 255 bytes of UTF-8, with the suffix kept; never empty, `.`, `..`, a Windows device or `.bulkdl`.
    """
    safe = _FORBIDDEN.sub("_", name).strip().rstrip(". ")
    if not safe:
        return FALLBACK
    if is_reserved(safe) or safe.casefold() == STATE_FOLDER:
        safe = f"_{safe}"
    return _shorten(safe)


def is_reserved(component: str) -> bool:
    """Whether Windows takes this name for a device (`aux.zip`, `COM1`)."""
    return _RESERVED.fullmatch(component) is not None


def check_relative(text: str) -> str | None:
    """Why `text` may not be a manifest's `file`, as the end of a sentence; None where it may.

    A manifest is made to be shared, so what would leave the destination on any system is refused on all of them.
    """
    if len(text) <= _MOST_BYTES and HARMLESS.fullmatch(text):  # none of what follows can be
        return None
    parts = text.split("/")
    steps = re.split(r"[/\\]", text) if "\\" in text else parts
    if not text.strip():
        return "is empty; expected a relative path such as 2024/S2A.zip"
    if _CONTROL.search(text) or not _encodable(text):
        return "holds a control character"
    if text[0] in "/\\" or _DRIVE.match(text):
        return "is an absolute path; expected one relative to the destination"
    if ".." in text and ".." in [step.strip() for step in steps]:
        return "leaves the destination by `..`; expected a path below it"
    if parts[-1] in {"", "."}:
        return "names a folder; expected the name of a file"
    if _in_state_folder(steps):
        return f"lies in {STATE_FOLDER}, which bulkdl keeps for itself"
    if len(text) * 4 > _MOST_BYTES and any(len(part.encode()) > _MOST_BYTES for part in parts):
        return f"has a component of more than {_MOST_BYTES} bytes, which file systems do not take"
    return None


def _in_state_folder(steps: list[str]) -> bool:
    """Whether a path, split at either slash, begins with bulkdl's own folder (trailing dots are none on Windows)."""
    first = next((step for step in steps if step not in {"", "."}), "")
    return first.rstrip(". ").casefold() == STATE_FOLDER


def normalise(text: str) -> str:
    """A relative path that passed `check_relative`, without empty and `.` steps: one spelling for one file."""
    if "//" not in text and "/." not in text and not text.startswith("."):
        return text
    return "/".join(part for part in text.split("/") if part not in {"", "."})


def fold(name: str) -> str:
    """The key under which two names are one file where case or Unicode form does not count (Windows, macOS)."""
    if name.isascii():
        lower = name.lower()
        return name if name == lower else lower  # there may be very many, each kept twice otherwise
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _parameters(value: str) -> dict[str, str]:
    """The parameters after the disposition type; the first of a name counts. Broken quoting is tolerated."""
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
    """A parameter's value, unquoted, and what follows it."""
    if not rest.startswith('"'):
        text, _, after = rest.partition(";")
        return text.strip(), after
    quoted = re.match(r'"((?:[^"\\]|\\.)*)"?', rest, re.DOTALL)
    body = quoted[1] if quoted else rest[1:]
    after = rest[quoted.end() :] if quoted else ""
    # Only a quote and a backslash are unescaped, so that `C:\dir\a.zip` of old servers keeps its separators.
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
    """Header bytes come as Latin-1 or with surrogates; many servers send UTF-8 in them."""
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
    if len(raw) <= _MOST_BYTES:
        return name
    found = _SUFFIX.search(name)
    suffix = found[1] if found else ""
    stem = raw[: _MOST_BYTES - len(suffix)].decode("utf-8", "ignore")
    return stem.rstrip(". ") + suffix


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
