"""Collector that every format fills: checked products, problems and warnings.

An entry that cannot be used does not lose the others: it is left out and stands among the problems.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from bulkdl.core import filenames, units
from bulkdl.core.errors import Problem
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret_headers import carries_secret, may_carry_secret
from bulkdl.core.urls import Url
from bulkdl.manifest.problems import describe, describe_url
from bulkdl.manifest.validators import header_problem, host_problem, parse_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.core.models import Checksum

__all__ = ["Collected", "ListedProduct"]

_BLANK = re.compile(r"[ \t]+")
_SECOND = re.compile(r"[ \t]+(?:#|[A-Za-z][A-Za-z0-9+.-]*://)")
"""Text behind the first of two URLs on one line, or a comment behind a URL: no part of that URL."""
_DIGITS = re.compile(r"[0-9A-Fa-f]+")
_BY_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedProduct:
    """One product of a list."""

    urls: tuple[str, ...]
    """The product's URL, then its mirrors."""
    file: str | None = None
    is_hint: bool = False
    """True if `file` is only a name that the list suggests."""
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    account: str | None = None

    def entry(self) -> str | dict[str, object]:
        """Return the manifest entry, in the short form if only the URL is known."""
        known: dict[str, object] = {
            "url": self.urls[0],
            "name" if self.is_hint else "file": self.file,
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
    incomplete: str = ""
    """Why the list is only a part of a result, as a whole sentence; "" if nothing says that it is."""
    is_wrong: bool = False
    """True if the text is probably no list of this format, so that nothing of it should be used."""
    _seen: dict[tuple[str, str | None], str] = field(default_factory=dict)
    _files: dict[str, str] = field(default_factory=dict)

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
        where: str = "",
        file: str | None = None,
        is_hint: bool = False,
        size: str | float | None = None,
        checksums: Iterable[str] = (),
        headers: Iterable[tuple[str, str]] = (),
        account: str | None = None,
    ) -> None:
        """Check one product and add it; ignore other URL schemes if at least one URL is http(s).

        `where` names the product in messages, in a list that has no lines. `is_hint`: the bytes may be of another type
        than `file` says.
        """
        wrong: list[str] = []
        good = self._urls([url.strip() for url in urls if url.strip()], wrong)
        found = ListedProduct(
            urls=good,
            file=_file(file, wrong),
            is_hint=is_hint,
            size=_size(size, wrong),
            checksums=_checksums(checksums, wrong),
            headers=tuple(self._headers(headers)),
            account=account or None,
        )
        if not wrong and not self._is_repeated(found, line, where, wrong):
            self.products.append(found)
        if wrong:
            self.add_problem(f"{where}: {'; '.join(wrong)}" if where else "; ".join(wrong), line)

    def _is_repeated(self, found: ListedProduct, line: int, where: str, wrong: list[str]) -> bool:
        """Return whether an earlier product is the same, or has the same file, which is added to `wrong`."""
        key, here = (found.urls[0], found.file), f"line {line}" if line else where or "another product"
        if key in self._seen:
            self.warn(f"{here}: the same product as {self._seen[key]}; added only once")
            return True
        self._seen[key] = here
        if found.file is not None and (other := self._files.setdefault(filenames.fold(found.file), here)) is not here:
            wrong.append(f"the file {describe(found.file)} is also that of {other}")
            return True
        return False

    def _urls(self, texts: list[str], wrong: list[str]) -> tuple[str, ...]:
        good: list[str] = []
        for text in texts:
            try:
                url = Url(self._absolute(text))
            except ValueError:
                continue
            if url.has_userinfo:
                wrong.append(f"a user name or password in a URL ({url}) is a literal secret; use an account instead")
            elif ":" not in url.host and (problem := host_problem(url.host)) is not None:
                wrong.append(problem)
            good.append(url.raw)
        if not good:
            found = describe_url(texts[0]) if texts else "nothing"
            wrong.append(f"expected an http:// or https:// URL, found {found}")
        elif len(good) < len(texts):
            self.warn("only http(s) URLs are supported; others were ignored")
        return tuple(dict.fromkeys(good))

    def _absolute(self, text: str) -> str:
        """Return the URL with its blanks percent-encoded, resolved against the base URL if it is relative."""
        if "://" not in text.partition("?")[0]:
            return text if self.base_url is None else urljoin(self.base_url, quote(text, safe="/%?&=:;,+@!$*'()~"))
        if _BLANK.search(text) is None or _SECOND.search(text) is not None or _BLANK.search(_authority(text)):
            return text
        return _BLANK.sub(lambda blank: "%20" * len(blank[0]), text)

    def _headers(self, headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
        for given, value in headers:
            name = given.strip()
            if carries_secret(name) or may_carry_secret(name):
                self.warn(f"the header {name} is a secret and was left out; use an account in the manifest instead")
            elif (problem := header_problem(name, value.strip())) is not None:
                self.warn(f"a header was left out: {problem}")
            else:
                yield name, value.strip()


def _authority(text: str) -> str:
    try:
        return urlsplit(text).netloc
    except ValueError:
        return " "


def _file(file: str | None, wrong: list[str]) -> str | None:
    if not file:
        return None
    problem = filenames.check_relative(file)
    if problem is not None:
        wrong.append(f"the file {describe(file)} {problem}")
    return filenames.normalise(file)


def _size(size: str | float | None, wrong: list[str]) -> int | None:
    if size is None or size == "":
        return None
    try:
        return units.parse_size(str(int(size)) if isinstance(size, int | float) else size)
    except ValueError as error:
        wrong.append(f"size: {error}")
        return None


def _checksums(texts: Iterable[str], wrong: list[str]) -> tuple[Checksum, ...]:
    """Return the checksums, the first of each algorithm; digits alone have the algorithm of their length."""
    found: dict[str, Checksum] = {}
    for text in texts:
        algorithm = _BY_LENGTH.get(len(text)) if _DIGITS.fullmatch(text) else None
        try:
            checksum = parse_checksum(f"{algorithm}:{text}" if algorithm else text)
        except ValueError as error:
            wrong.append(f"checksum: {error}")
            continue
        found.setdefault(checksum.algorithm, checksum)
    return tuple(found.values())
