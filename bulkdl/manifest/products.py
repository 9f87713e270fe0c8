"""Products as the manifest has them, to values: checked one at a time, finished when accounts and defaults are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bulkdl.core import filenames, units
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Checksum, Product, Resume, Verify
from bulkdl.manifest.problems import shown
from bulkdl.manifest.schema import check_product
from bulkdl.manifest.validators import check_headers, check_url, parse_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bulkdl.core.models import Account
    from bulkdl.core.urls import Url
    from bulkdl.manifest.problems import Findings
    from bulkdl.manifest.source_position import Place

__all__ = ["Defaults", "Products"]

Headers = tuple[tuple[str, str], ...]
_KEPT_PLACES = 200
_OFTEN = frozenset({"url", "file", "size", "checksum"})
"""The keys of nearly all products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds for products that do not say otherwise."""

    account: str | None = None
    headers: Headers = ()
    extract: bool = False
    verify: Verify = Verify.BASIC
    resume: Resume | None = None


@dataclass(slots=True, kw_only=True)
class _Own:
    """What a product says that has an account or a default behind it, or is rare; None where it says nothing."""

    names_account: bool = False
    account: str | None = None
    mirrors: tuple[Url, ...] = ()
    headers: Headers | None = None
    extract: bool | None = None
    verify: Verify | None = None
    resume: Resume | None = None


@dataclass(slots=True)
class _Draft:
    """A product before accounts and defaults are known."""

    line: int
    url: Url
    file: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()
    own: _Own | None = None
    """None for nearly all of very many."""


class Products:
    """Takes products in order; finds two for one file; gives the finished values."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._drafts: list[_Draft] = []
        self._count = 0
        self._files: dict[str, tuple[str, int]] = {}
        self._folders: dict[str, int] = {}
        self._urls: dict[str, int] = {}
        self._accounts: dict[str, list[Place]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, value: Any, place: Place) -> None:
        """Take the next product, as YAML has it; what is wrong with it is reported."""
        self._count += 1
        bad = check_product(value, place, self._findings)
        if () in bad:
            return
        if isinstance(value, str):
            url = check_url(value.strip(), place, self._findings)
            if url is not None:
                self._claim_url(url, place)
                self._drafts.append(_Draft(line=place.line, url=url))
            return
        if bad:
            value = {key: child for key, child in value.items() if (key,) not in {path[:1] for path in bad}}
        self._take(value, place)

    def add_listed(self, text: str, place: Place) -> None:
        """Take a line of a plain list; a URL that stands there twice is taken once, with a warning."""
        if text in self._urls:
            self._findings.warn(place, f"the URL is also that of {_line(self._urls[text])}; it is taken once")
        else:
            self.add(text, place)

    def _take(self, value: dict[str, Any], place: Place) -> None:
        url = check_url(value["url"].strip(), place, self._findings, "url") if "url" in value else None
        text, size, checksum = value.get("file"), value.get("size"), value.get("checksum")
        file = None if text is None else self._file(text, place)
        size = None if size is None else self._size(size, place)
        checksums = () if checksum is None else self._checksums(checksum, place)
        own = None if value.keys() <= _OFTEN else self._own(value, url, place)
        if url is None:
            return
        if "file" not in value:
            self._claim_url(url, place)
        self._drafts.append(_Draft(place.line, url, file, size, checksums, own))

    def _own(self, value: dict[str, Any], url: Url | None, place: Place) -> _Own:
        findings = self._findings
        mirrors = [
            check_url(text.strip(), place, findings, "mirrors", i) for i, text in enumerate(value.get("mirrors") or ())
        ]
        account = value.get("account")
        if account is not None:
            places = self._accounts.setdefault(account, [])
            if len(places) < _KEPT_PLACES:
                places.append(place.at("account"))
        return _Own(
            names_account="account" in value,
            account=account,
            mirrors=tuple(dict.fromkeys(m for m in mirrors if m is not None and m != url)),
            headers=check_headers(value["headers"], place.at("headers"), findings) if "headers" in value else None,
            extract=value.get("extract"),
            verify=Verify(value["verify"]) if "verify" in value else None,
            resume=Resume(value["resume"]) if "resume" in value else None,
        )

    def _size(self, value: Any, place: Place) -> int | None:
        if not isinstance(value, str):
            return int(value)
        try:
            return units.parse_size(value)
        except ValueError as error:
            self._findings.add(place.at("size"), f"`size`: {error}")
            return None

    def _checksums(self, value: Any, place: Place) -> tuple[Checksum, ...]:
        if isinstance(value, str):
            checksum = self._checksum(value, place, "checksum")
            return (checksum,) if checksum is not None else ()
        found: dict[str, Checksum] = {}
        for i, text in enumerate(value):
            checksum = self._checksum(text, place, "checksum", i)
            if checksum is not None and found.setdefault(checksum.algorithm, checksum) != checksum:
                message = f"`checksum`: a second {checksum.algorithm} that differs from the first"
                self._findings.add(place.at("checksum", i), message)
        return tuple(found.values())

    def _checksum(self, text: str, place: Place, *path: str | int) -> Checksum | None:
        try:
            return parse_checksum(text)
        except ValueError as error:
            self._findings.add(place.at(*path), f"`checksum`: {error}")
            return None

    def _file(self, text: str, place: Place) -> str | None:
        problem = filenames.check_relative(text)
        if problem is not None:
            self._findings.add(place.at("file"), f"`file`: {shown(text)} {problem}")
            return None
        file = filenames.normalise(text)
        if filenames.is_reserved(file.rpartition("/")[2]):
            self._findings.warn(place.at("file"), f"{shown(file)} is the name of a device on Windows")
        self._claim_file(file, place)
        return file

    def _claim_file(self, file: str, place: Place) -> None:
        folded = filenames.fold(file)
        here = place.line_of("file") or -self._count
        if folded in self._files:
            other, line = self._files[folded]
            spelt = "" if other == file else f' (as "{other}", which some systems do not tell apart)'
            self._findings.add(
                place.at("file"), f'two products for one file: "{file}" is also that of {_line(line)}{spelt}'
            )
            return
        self._files[folded] = (file, here)
        if folded in self._folders:
            line = self._folders[folded]
            self._findings.add(place.at("file"), f'"{file}" is a folder in the path of the product of {_line(line)}')
        folder = folded.rpartition("/")[0]
        while folder and folder not in self._folders:
            if folder in self._files:
                other, line = self._files[folder]
                self._findings.add(place.at("file"), f'"{other}", the file of {_line(line)}, is a folder in this path')
            self._folders[folder] = here
            folder = folder.rpartition("/")[0]

    def _claim_url(self, url: Url, place: Place) -> None:
        if url.raw in self._urls:
            line = self._urls[url.raw]
            message = f"the URL {url} is also that of {_line(line)}; leave one out, or give each a `file` of its own"
            self._findings.add(place, message)
        else:
            self._urls[url.raw] = place.line or -self._count

    def finish(self, defaults: Defaults, accounts: Mapping[str, Account]) -> tuple[Product, ...]:
        """The products with defaults and accounts applied, in the manifest's order."""
        drafts, nothing = self._drafts, _Own()
        usual = _applied(nothing, defaults, accounts)
        products: list[Product] = []
        drafts.reverse()
        while drafts:
            draft = drafts.pop()
            own = draft.own or nothing
            said = usual if own is nothing else _applied(own, defaults, accounts)
            products.append(_finish(draft, len(products), said, own.mirrors))
        return tuple(products)

    def accounts_used(self) -> Iterable[tuple[str, list[Place]]]:
        """The accounts that products name, each with where (the first two hundred places)."""
        return self._accounts.items()


def _applied(own: _Own, defaults: Defaults, accounts: Mapping[str, Account]) -> Defaults:
    """What holds for a product that says `own`."""
    name = own.account if own.names_account else defaults.account
    account = accounts.get(name) if name is not None else None
    return Defaults(
        account=name,
        headers=defaults.headers if own.headers is None else _join(defaults.headers, own.headers),
        extract=defaults.extract if own.extract is None else own.extract,
        verify=own.verify or defaults.verify,
        resume=own.resume or (account.resume if account else None) or defaults.resume,
    )


def _finish(draft: _Draft, index: int, said: Defaults, mirrors: tuple[Url, ...]) -> Product:
    return Product(
        index=index,
        url=draft.url,
        file=draft.file,
        size=draft.size,
        checksums=draft.checksums,
        account=said.account,
        mirrors=mirrors,
        headers=said.headers,
        extract=said.extract,
        verify=said.verify,
        resume=said.resume or Resume.STRICT,
        line=draft.line,
    )


def _join(common: Headers, own: Headers) -> Headers:
    mine = {name.lower() for name, _ in own}
    return (*(pair for pair in common if pair[0].lower() not in mine), *own)


def _line(line: int) -> str:
    """Where the other product stands; what was never in a file counts from -1 downwards."""
    return f"line {line}" if line > 0 else f"products[{-line - 1}]"
