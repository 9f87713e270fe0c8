"""Products as the manifest has them, to values: checked one at a time, finished when accounts and defaults are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bulkdl import names, units
from bulkdl.dataclass import dataclass
from bulkdl.manifest.checks import check_headers, check_url, parse_checksum
from bulkdl.manifest.findings import shown
from bulkdl.manifest.structure import check_product
from bulkdl.model import Checksum, Product, Resume, Verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bulkdl.manifest.findings import Findings
    from bulkdl.manifest.positions import Place
    from bulkdl.model import Account
    from bulkdl.urls import Url

__all__ = ["Defaults", "Products"]

Headers = tuple[tuple[str, str], ...]
_KEPT_PLACES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds for products that do not say otherwise."""

    account: str | None = None
    headers: Headers = ()
    extract: bool = False
    verify: Verify = Verify.BASIC
    resume: Resume | None = None


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A product before accounts and defaults are known; None where it says nothing."""

    line: int
    url: Url
    file: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()
    names_account: bool = False
    account: str | None = None
    mirrors: tuple[Url, ...] = ()
    headers: Headers | None = None
    extract: bool | None = None
    verify: Verify | None = None
    resume: Resume | None = None


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
        findings = self._findings
        url = check_url(value["url"].strip(), place, findings, "url") if "url" in value else None
        file = self._file(value.get("file"), place)
        size = self._size(value.get("size"), place)
        checksums = self._checksums(value.get("checksum"), place)
        mirrors = [
            check_url(text.strip(), place, findings, "mirrors", i) for i, text in enumerate(value.get("mirrors") or ())
        ]
        account = value.get("account")
        if account is not None:
            places = self._accounts.setdefault(account, [])
            if len(places) < _KEPT_PLACES:
                places.append(place.at("account"))
        headers = check_headers(value["headers"], place.at("headers"), findings) if "headers" in value else None
        if url is None:
            return
        if file is None and "file" not in value:
            self._claim_url(url, place)
        self._drafts.append(
            _Draft(
                line=place.line,
                url=url,
                file=file,
                size=size,
                checksums=checksums,
                names_account="account" in value,
                account=account,
                mirrors=tuple(dict.fromkeys(m for m in mirrors if m is not None and m != url)) if mirrors else (),
                headers=headers,
                extract=value.get("extract"),
                verify=Verify(value["verify"]) if "verify" in value else None,
                resume=Resume(value["resume"]) if "resume" in value else None,
            )
        )

    def _size(self, value: Any, place: Place) -> int | None:
        if not isinstance(value, str):
            return None if value is None else int(value)
        try:
            return units.parse_size(value)
        except ValueError as error:
            self._findings.add(place.at("size"), f"`size`: {error}")
            return None

    def _checksums(self, value: Any, place: Place) -> tuple[Checksum, ...]:
        if value is None:
            return ()
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

    def _file(self, text: str | None, place: Place) -> str | None:
        if text is None:
            return None
        problem = names.check_relative(text)
        if problem is not None:
            self._findings.add(place.at("file"), f"`file`: {shown(text)} {problem}")
            return None
        file = names.normalise(text)
        if names.is_reserved(file.rpartition("/")[2]):
            self._findings.warn(place.at("file"), f"{shown(file)} is the name of a device on Windows")
        self._claim_file(file, place)
        return file

    def _claim_file(self, file: str, place: Place) -> None:
        folded = names.fold(file)
        place = place.at("file")
        here = place.line or -self._count
        if folded in self._files:
            other, line = self._files[folded]
            spelt = "" if other == file else f' (as "{other}", which some systems do not tell apart)'
            self._findings.add(place, f'two products for one file: "{file}" is also that of {_line(line)}{spelt}')
            return
        self._files[folded] = (file, here)
        if folded in self._folders:
            line = self._folders[folded]
            self._findings.add(place, f'"{file}" is a folder in the path of the product of {_line(line)}')
        folder = folded.rpartition("/")[0]
        while folder and folder not in self._folders:
            if folder in self._files:
                other, line = self._files[folder]
                self._findings.add(place, f'"{other}", the file of {_line(line)}, is a folder in this path')
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
        drafts = self._drafts
        products: list[Product] = []
        drafts.reverse()
        while drafts:
            products.append(_finish(drafts.pop(), len(products), defaults, accounts))
        return tuple(products)

    def accounts_used(self) -> Iterable[tuple[str, list[Place]]]:
        """The accounts that products name, each with where (the first two hundred places)."""
        return self._accounts.items()


def _finish(draft: _Draft, index: int, defaults: Defaults, accounts: Mapping[str, Account]) -> Product:
    name = draft.account if draft.names_account else defaults.account
    account = accounts.get(name) if name is not None else None
    resume = draft.resume or (account.resume if account else None) or defaults.resume or Resume.STRICT
    return Product(
        index=index,
        url=draft.url,
        file=draft.file,
        size=draft.size,
        checksums=draft.checksums,
        account=name,
        mirrors=draft.mirrors,
        headers=defaults.headers if draft.headers is None else _join(defaults.headers, draft.headers),
        extract=defaults.extract if draft.extract is None else draft.extract,
        verify=draft.verify or defaults.verify,
        resume=resume,
        line=draft.line,
    )


def _join(common: Headers, own: Headers) -> Headers:
    mine = {name.lower() for name, _ in own}
    return (*(pair for pair in common if pair[0].lower() not in mine), *own)


def _line(line: int) -> str:
    """Where the other product stands; what was never in a file counts from -1 downwards."""
    return f"line {line}" if line > 0 else f"products[{-line - 1}]"
