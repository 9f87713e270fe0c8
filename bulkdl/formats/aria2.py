"""Input file of aria2: a line of mirror URLs separated by tabs, then options on indented lines."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.formats.lines import numbered

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_SUPPORTED = frozenset({"out", "dir", "checksum", "header", "referer", "user-agent"})


@dataclass(slots=True)
class _Download:
    line: int
    urls: list[str]
    options: dict[str, str] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)


def read(text: str, into: Collected) -> None:
    """Add every download; ignore unsupported options with a warning."""
    current: _Download | None = None
    for number, line in numbered(text):
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            _add(current, into)
            current = _Download(number, line.split("\t"))
        elif current is None:
            into.add_problem("an option before the first URL", number)
        else:
            _option(current, line.strip(), number, into)
    _add(current, into)


def _option(download: _Download, text: str, line: int, into: Collected) -> None:
    name, equals, value = text.partition("=")
    if not equals:
        into.add_problem("expected `option=value` on an indented line", line)
    elif name == "header":
        header, _, content = value.partition(":")
        download.headers.append((header, content))
    elif name in {"referer", "user-agent"}:
        download.headers.append((name.title(), value))
    elif name in _SUPPORTED:
        download.options[name] = value.strip()
    else:
        into.warn(f"aria2 option {name[:40]} is not supported and was ignored")


def _add(download: _Download | None, into: Collected) -> None:
    if download is None:
        return
    options = download.options
    folder, out = options.get("dir", ""), options.get("out")
    if folder.startswith(("/", "~")) or folder[1:2] == ":":
        into.warn("absolute folders (dir=) were ignored: products go below the destination folder of the manifest")
        folder = ""
    if folder and out is None:
        into.warn("dir= without out= was ignored: the file name is not known")
    checksum = options.get("checksum", "")
    into.add(
        download.urls,
        line=download.line,
        file=None if out is None else f"{folder.rstrip('/')}/{out}" if folder else out,
        checksums=[checksum] if checksum else [],
        headers=download.headers,
    )
