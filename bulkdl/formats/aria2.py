"""aria2's input file: a line of mirrors with tabs between them, then its options on indented lines."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from bulkdl.formats.collector import Collected

__all__ = ["read"]

_UNDERSTOOD = frozenset({"out", "dir", "checksum", "header", "referer", "user-agent"})


@dataclass(slots=True)
class _Download:
    line: int
    urls: list[str]
    options: dict[str, str] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)


def read(text: str, into: Collected) -> None:
    """Take every download; options that mean nothing here are left out with a warning."""
    current: _Download | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            _take(current, into)
            current = _Download(number, line.split("\t"))
        elif current is None:
            into.wrong("an option before the first URL", number)
        else:
            _option(current, line.strip(), number, into)
    _take(current, into)


def _option(download: _Download, text: str, line: int, into: Collected) -> None:
    name, equals, value = text.partition("=")
    if not equals:
        into.wrong(f'expected `option=value`, found "{text[:40]}"', line)
    elif name == "header":
        header, _, content = value.partition(":")
        download.headers.append((header, content))
    elif name in {"referer", "user-agent"}:
        download.headers.append((name.title(), value))
    elif name in _UNDERSTOOD:
        download.options[name] = value.strip()
    else:
        into.warn(f"aria2's option {name[:40]} has no meaning here and was left out")


def _take(download: _Download | None, into: Collected) -> None:
    if download is None:
        return
    options = download.options
    folder, out = options.get("dir", ""), options.get("out")
    if folder.startswith(("/", "~")) or folder[1:2] == ":":
        into.warn("absolute folders (dir=) were left out: products go below the manifest's destination")
        folder = ""
    if folder and out is None:
        into.warn("dir= without out= was left out: the name of the file is not known")
    checksum = options.get("checksum", "")
    into.add(
        download.urls,
        line=download.line,
        file=None if out is None else f"{folder.rstrip('/')}/{out}" if folder else out,
        checksums=[checksum] if checksum else [],
        headers=download.headers,
    )
