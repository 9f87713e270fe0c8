"""Collector that every format fills: checked products, problems and warnings."""

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

__all__ = ["Collected", "ListedProduct"]

_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedProduct:
    """One product of a list."""

    urls: tuple[str, ...]
    """The product's URL, then its mirrors."""
    file: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    account: str | None = None

    def entry(self) -> str | dict[str, object]:
        """Return the manifest entry, in the short form if only the URL is known."""
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
        given = {key: value for key, value in known.items() if value not in (None, "", [], {})}
        return self.urls[0] if given.keys() == {"url"} else given


@dataclass(slots=True, kw_only=True)
class Collected:
    """Collects the valid products of a list, and every problem with its line."""

    base_url: str | None = None
    products: list[ListedProduct] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _seen: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def add_problem(self, message: str, line: int = 0) -> None:
        """Record a problem; `line` counts from 1, 0 means no line."""
        self.problems.append(Problem(line, 1 if line else 0, message))

    def warn(self, message: str) -> None:
        """Record a warning, once even if repeated."""
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
        """Check one product and add it; ignore other URL schemes if at least one URL is http(s)."""
        before = len(self.problems)
        good = self._urls([url.strip() for url in urls if url.strip()], line)
        found = ListedProduct(
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
                f"{_place(line)}the same product as {_place(self._seen[key]).rstrip(': ') or 'an earlier one'}; "
                "added only once"
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
                self.add_problem(
                    f"a user name or password in a URL ({url}) is a literal secret; use an account instead", line
                )
            good.append(url.raw)
        if not good:
            self.add_problem(f"expected an http:// or https:// URL, found {_quoted(texts)}", line)
        elif len(good) < len(texts):
            self.warn("only http(s) URLs are supported; others were ignored")
        return tuple(dict.fromkeys(good))

    def _file(self, file: str | None, line: int) -> str | None:
        if not file:
            return None
        problem = filenames.check_relative(file)
        if problem is not None:
            self.add_problem(f"the file {_quoted([file])} {problem}", line)
        return filenames.normalise(file)

    def _size(self, size: str | float | None, line: int) -> int | None:
        if size is None or size == "":
            return None
        try:
            return units.parse_size(str(int(size)) if isinstance(size, int | float) else size)
        except ValueError as error:
            self.add_problem(f"size: {error}", line)
            return None

    def _checksums(self, texts: Iterable[str], line: int) -> tuple[Checksum, ...]:
        found: dict[str, Checksum] = {}
        for text in texts:
            try:
                checksum = parse_checksum(text)
            except ValueError as error:
                self.add_problem(f"checksum: {error}", line)
                continue
            found.setdefault(checksum.algorithm, checksum)
        return tuple(found.values())

    def _headers(self, headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
        for name, value in headers:
            if name.strip().lower() in _SECRET_HEADERS:
                self.warn(
                    f"the header {name.strip()} is a secret and was left out; use an account in the manifest instead"
                )
            else:
                yield name.strip(), value.strip()


def _place(line: int) -> str:
    return f"line {line}: " if line else ""


def _quoted(texts: list[str]) -> str:
    text = texts[0].partition("?")[0] if texts else ""
    return f'"{text[:80]}"' if text else "nothing"
