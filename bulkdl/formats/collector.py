"""What every format gives: products, checked one by one, and what was wrong or left out."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from bulkdl.core import filenames, units
from bulkdl.core.errors import Problem
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.urls import Url
from bulkdl.manifest.validators import parse_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.core.models import Checksum

__all__ = ["Collected", "Found"]

_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One product as a list has it."""

    urls: tuple[str, ...]
    """The first is the product's URL, the others are mirrors."""
    file: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    account: str | None = None

    def entry(self) -> str | dict[str, object]:
        """As a manifest has it: the short form where nothing but the URL is known."""
        known: dict[str, object] = {
            "url": self.urls[0],
            "file": self.file,
            "size": self.size,
            "checksum": [str(c) for c in self.checksums]
            if len(self.checksums) > 1
            else "".join(map(str, self.checksums)),
            "account": self.account,
            "mirrors": list(self.urls[1:]),
            "headers": dict(self.headers),
        }
        said = {key: value for key, value in known.items() if value not in (None, "", [], {})}
        return self.urls[0] if said.keys() == {"url"} else said


@dataclass(slots=True, kw_only=True)
class Collected:
    """Takes products from a format's reader; keeps the good ones, and every problem with its place."""

    base_url: str | None = None
    products: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _seen: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def wrong(self, message: str, line: int = 0) -> None:
        """`line` from 1; 0 where the fault has no place."""
        self.problems.append(Problem(line, 1 if line else 0, message))

    def warn(self, message: str) -> None:
        """Once, however often it is said."""
        if message not in self.warnings:
            self.warnings.append(message)

    def add(
        self,
        urls: Iterable[str],
        *,
        line: int = 0,
        file: str | None = None,
        size: str | float | None = None,
        checksums: Iterable[str] = (),
        headers: Iterable[tuple[str, str]] = (),
        account: str | None = None,
    ) -> None:
        """Check one product and take it; URLs that are not http(s) are left out where another is."""
        before = len(self.problems)
        good = self._urls([url.strip() for url in urls if url.strip()], line)
        found = Found(
            urls=good,
            file=self._file(file, line),
            size=self._size(size, line),
            checksums=self._checksums(checksums, line),
            headers=tuple(self._headers(headers)),
            account=account or None,
        )
        if len(self.problems) > before:
            return
        key = (good[0], found.file)
        if key in self._seen:
            self.warn(
                f"{_place(line)}the same product as {_place(self._seen[key]).rstrip(': ') or 'one before'}; taken once"
            )
            return
        self._seen[key] = line
        self.products.append(found)

    def _urls(self, texts: list[str], line: int) -> tuple[str, ...]:
        good = []
        for text in texts:
            target = text if self.base_url is None or "://" in text else urljoin(self.base_url, quote(text))
            try:
                url = Url(target)
            except ValueError:
                continue
            if url.has_userinfo:
                self.wrong(
                    f"a user name or password in a URL ({url}) is a literal secret; name an account instead", line
                )
            good.append(url.raw)
        if not good:
            self.wrong(f"expected an http:// or https:// URL, found {_shown(texts)}", line)
        elif len(good) < len(texts):
            self.warn("only http(s) URLs are taken; others were left out")
        return tuple(dict.fromkeys(good))

    def _file(self, file: str | None, line: int) -> str | None:
        if not file:
            return None
        problem = filenames.check_relative(file)
        if problem is not None:
            self.wrong(f"the file {_shown([file])} {problem}", line)
        return filenames.normalise(file)

    def _size(self, size: str | float | None, line: int) -> int | None:
        if size is None or size == "":
            return None
        try:
            return units.parse_size(str(int(size)) if isinstance(size, int | float) else size)
        except ValueError as error:
            self.wrong(f"size: {error}", line)
            return None

    def _checksums(self, texts: Iterable[str], line: int) -> tuple[Checksum, ...]:
        found: dict[str, Checksum] = {}
        for text in texts:
            try:
                checksum = parse_checksum(text)
            except ValueError as error:
                self.wrong(f"checksum: {error}", line)
                continue
            found.setdefault(checksum.algorithm, checksum)
        return tuple(found.values())

    def _headers(self, headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
        for name, value in headers:
            if name.strip().lower() in _SECRET_HEADERS:
                self.warn(
                    f"the header {name.strip()} is a secret and was left out; name an account in the manifest instead"
                )
            else:
                yield name.strip(), value.strip()


def _place(line: int) -> str:
    return f"line {line}: " if line else ""


def _shown(texts: list[str]) -> str:
    text = texts[0].partition("?")[0] if texts else ""
    return f'"{text[:80]}"' if text else "nothing"
