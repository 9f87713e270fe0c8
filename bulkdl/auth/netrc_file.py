r"""Read a `.netrc` file as curl reads it.

The standard library's `netrc` does not serve: it drops the backslash of an unquoted password (`pa\ss` becomes `pass`),
knows no `\n` in quotes, keeps only the last of several entries for one machine, compares machine names with case, and
refuses the whole file because of one unknown word or a byte order mark.

Messages name lines and never quote them.
"""

from __future__ import annotations

import codecs
import ipaddress
import re
from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Netrc", "NetrcEntry", "parse_netrc"]

_TOKEN = re.compile(r'[\t ]*(?:"((?:[^"\\]|\\.)*)"|([^"\x00-\x20][^\x00-\x20]*)|(\S.*))', re.DOTALL)
"""A quoted word, a plain word, or what is neither. A quote inside a plain word is an ordinary character."""
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_CONTROL = {"n": "\n", "r": "\r", "t": "\t"}
_VALUES = frozenset({"login", "password", "account", "port", "protocol"})
"""Keywords that a value follows. Git and others write the last two."""


@dataclass(frozen=True, slots=True)
class NetrcEntry:
    """One `machine`, or the `default`."""

    machine: str | None
    """The name of the host in canonical form; None for the `default`."""
    login: str | None = field(default=None, repr=False)
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class Netrc:
    entries: tuple[NetrcEntry, ...]
    bad_lines: tuple[int, ...]
    """Lines with an unknown word, an open quote or bytes that are not UTF-8; such a word is skipped."""

    def find(self, hosts: Sequence[str], login: str | None = None) -> NetrcEntry | None:
        """Return the entry with a password for the first of the hosts that has one.

        Of several entries for a host, the one with this login counts, else the first without a login. If the login is
        not known, the first with a login counts. The `default` serves where no host has an entry.
        """
        names: list[str | None] = [canonical(host) for host in hosts]
        for name in [*names, None] if names else []:
            usable = [e for e in self.entries if e.machine == name and e.password]
            with_login = [e for e in usable if e.login is not None and login in (None, e.login)]
            without = [e for e in usable if e.login is None]
            if found := next(iter((*with_login, *without)), None):
                return found
        return None


def parse_netrc(data: bytes) -> Netrc:
    """Read the content of a file; never fail. What cannot be read is skipped and its line recorded."""
    reader = _Reader()
    lines = re.split(r"\r\n|\n|\r", _decoded(data))
    for number, line in enumerate(lines, 1):
        reader.read(number, line)
    return reader.result()


def canonical(host: str) -> str:
    """Return a host name as it is compared: lower case, without brackets and a final dot, non-ASCII names encoded."""
    name = host.strip().lower().removeprefix("[").removesuffix("]").rstrip(".")
    try:
        return str(ipaddress.ip_address(name)) if ":" in name else name.encode("idna").decode()
    except ValueError:
        return name


class _Reader:
    """Reads lines and collects entries. A value may stand in the line after its keyword."""

    def __init__(self) -> None:
        self._entries: list[NetrcEntry] = []
        self._bad: list[int] = []
        self._keyword = ""
        """The keyword whose value comes next."""
        self._in_macro = False
        self._open: dict[str, str] | None = None
        """The values of the entry that is being read."""
        self._machine: str | None = None

    def read(self, number: int, line: str) -> None:
        if self._in_macro:  # a macro lasts until an empty line
            self._in_macro = bool(line.strip(" \t"))
            return
        if line.lstrip(" \t").startswith("#"):  # elsewhere in a line a # belongs to its word
            return
        for word in _words(line):
            if self._keyword == "macdef":  # the name of the macro
                self._keyword, self._in_macro = "", True
                return
            if word is None or not _is_text(word) or not self._take(word):
                self._keyword = ""
                if self._bad[-1:] != [number]:
                    self._bad.append(number)

    def _take(self, word: str) -> bool:
        """Take the next word; return False if it is not known."""
        keyword, self._keyword = self._keyword, ""
        lower = word.lower()
        if keyword == "machine":
            self._begin(canonical(word))
        elif keyword:
            if self._open is not None:
                self._open.setdefault(keyword, word)
        elif lower == "machine" or lower in _VALUES:
            self._keyword = lower
            if lower == "machine":
                self._end()
        elif lower == "default":
            self._begin(None)
        elif lower == "macdef":
            self._keyword = lower
        else:
            return self._is_complete  # curl reads no further in an entry that has all it needs
        return True

    @property
    def _is_complete(self) -> bool:
        return self._open is not None and {"login", "password"} <= self._open.keys()

    def _begin(self, machine: str | None) -> None:
        self._end()
        self._machine, self._open = machine, {}

    def _end(self) -> None:
        if self._open is not None:
            password = self._open.get("password")
            secret = None if password is None else Secret(password)
            self._entries.append(NetrcEntry(self._machine, self._open.get("login"), secret))
        self._open = None

    def result(self) -> Netrc:
        self._end()
        return Netrc(tuple(self._entries), tuple(self._bad))


def _words(line: str) -> Iterator[str | None]:
    """Return the words of a line; None for a quote that is not closed."""
    for found in _TOKEN.finditer(line):
        quoted, plain, _ = found.groups()
        if quoted is not None:
            yield _ESCAPE.sub(lambda escape: _CONTROL.get(escape[1], escape[1]), quoted)
        else:
            yield plain


def _is_text(word: str) -> bool:
    """Tell whether the word was UTF-8; a surrogate stands for a byte that was not."""
    return not any("\ud800" <= c <= "\udfff" for c in word)


def _decoded(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it. A byte that is neither spoils one word."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
