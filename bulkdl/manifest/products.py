"""Build `Product` values: check each product as it is read, finish all when accounts and defaults are known.

A manifest may list very many products, so a draft is small and rare keys are kept in a separate `_Overrides`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bulkdl.core import filenames, units
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Checksum, Product, Resume, Verify
from bulkdl.manifest.problems import describe
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
_MAX_PLACES = 200
_COMMON_KEYS = frozenset({"url", "file", "size", "checksum"})
"""Keys of an ordinary product; a product with only these keys needs no `_Overrides`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Values of products that do not set their own."""

    account: str | None = None
    headers: Headers = ()
    extract: bool = False
    verify: Verify = Verify.BASIC
    resume: Resume | None = None


@dataclass(slots=True, kw_only=True)
class _Overrides:
    """Rare keys of a product, and those that override a default or the account; None means not set."""

    names_account: bool = False
    hint: str | None = None
    account: str | None = None
    mirrors: tuple[Url, ...] = ()
    headers: Headers | None = None
    extract: bool | None = None
    verify: Verify | None = None
    resume: Resume | None = None
    priority: int = 0


@dataclass(slots=True)
class _Draft:
    """A product whose account and defaults are not applied yet."""

    line: int
    url: Url
    file: str | None = None
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()
    overrides: _Overrides | None = None
    """None for most products."""


class Products:
    """Collect products in order, report two products for one file, and build the finished values."""

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
        """Add the next product, a value read from YAML, and report its problems."""
        self._count += 1
        bad = check_product(value, place, self._findings)
        if () in bad:
            return
        if isinstance(value, str):
            url = check_url(value.strip(), place, self._findings)
            if url is not None:
                self._reserve_url(url, place)
                self._drafts.append(_Draft(line=place.line, url=url))
            return
        if bad:
            value = {key: child for key, child in value.items() if (key,) not in {path[:1] for path in bad}}
        self._add_mapping(value, place)

    def add_listed(self, text: str, place: Place) -> None:
        """Add a line of a plain list; if the URL is already in the list, skip it with a warning."""
        if text in self._urls:
            self._findings.warn(place, f"duplicate of the URL in {_line(self._urls[text])}; it is downloaded once")
        else:
            self.add(text, place)

    def _add_mapping(self, value: dict[str, Any], place: Place) -> None:
        url = check_url(value["url"].strip(), place, self._findings, "url") if "url" in value else None
        text, size, checksum = value.get("file"), value.get("size"), value.get("checksum")
        file = None if text is None else self._file(text, place)
        size = None if size is None else self._size(size, place)
        checksums = () if checksum is None else self._checksums(checksum, place)
        overrides = None if value.keys() <= _COMMON_KEYS else self._overrides(value, url, place)
        if url is None:
            return
        if "file" not in value:
            self._reserve_url(url, place)
        self._drafts.append(_Draft(place.line, url, file, size, checksums, overrides))

    def _overrides(self, value: dict[str, Any], url: Url | None, place: Place) -> _Overrides:
        findings = self._findings
        mirrors = [
            check_url(text.strip(), place, findings, "mirrors", i) for i, text in enumerate(value.get("mirrors") or ())
        ]
        account = value.get("account")
        if account is not None:
            places = self._accounts.setdefault(account, [])
            if len(places) < _MAX_PLACES:
                places.append(place.at("account"))
        return _Overrides(
            names_account="account" in value,
            hint=None if value.get("name") is None else self._hint(value["name"], place),
            account=account,
            mirrors=tuple(dict.fromkeys(m for m in mirrors if m is not None and m != url)),
            headers=check_headers(value["headers"], place.at("headers"), findings) if "headers" in value else None,
            extract=value.get("extract"),
            verify=Verify(value["verify"]) if "verify" in value else None,
            resume=Resume(value["resume"]) if "resume" in value else None,
            priority=int(value.get("priority") or 0),
        )

    def _hint(self, text: str, place: Place) -> str | None:
        problem = filenames.check_relative(text)
        if problem is not None:
            self._findings.add(place.at("name"), f"`name`: {describe(text)} {problem}")
        return filenames.normalise(text)

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
                message = f"`checksum`: two different values for {checksum.algorithm}"
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
            self._findings.add(place.at("file"), f"`file`: {describe(text)} {problem}")
            return None
        file = filenames.normalise(text)
        if filenames.is_reserved(file.rpartition("/")[2]):
            self._findings.warn(
                place.at("file"), f"{describe(file)} is a device name on Windows, where it cannot be created"
            )
        self._reserve_file(file, place)
        return file

    def _reserve_file(self, file: str, place: Place) -> None:
        folded = filenames.fold(file)
        here = place.line_of("file") or -self._count
        if folded in self._files:
            other, line = self._files[folded]
            spelling = "" if other == file else f' (as "{other}", the same file on some systems)'
            self._findings.add(
                place.at("file"), f'two products for one file: "{file}" is also the file of {_line(line)}{spelling}'
            )
            return
        self._files[folded] = (file, here)
        if folded in self._folders:
            line = self._folders[folded]
            self._findings.add(place.at("file"), f'"{file}" is a folder in the path of the product in {_line(line)}')
        folder = folded.rpartition("/")[0]
        while folder and folder not in self._folders:
            if folder in self._files:
                other, line = self._files[folder]
                self._findings.add(
                    place.at("file"), f'"{other}" is the file of {_line(line)}, so it cannot be a folder in this path'
                )
            self._folders[folder] = here
            folder = folder.rpartition("/")[0]

    def _reserve_url(self, url: Url, place: Place) -> None:
        if url.raw in self._urls:
            line = self._urls[url.raw]
            message = f"the URL {url} is also in {_line(line)}; remove one, or give each its own `file`"
            self._findings.add(place, message)
        else:
            self._urls[url.raw] = place.line or -self._count

    def finish(self, defaults: Defaults, accounts: Mapping[str, Account]) -> tuple[Product, ...]:
        """Build the products with defaults and accounts applied, in the manifest's order."""
        drafts, no_overrides = self._drafts, _Overrides()
        default_values = _effective(no_overrides, defaults, accounts)
        products: list[Product] = []
        names = self._names()
        drafts.reverse()
        while drafts:
            draft = drafts.pop()
            overrides = draft.overrides or no_overrides
            values = default_values if overrides is no_overrides else _effective(overrides, defaults, accounts)
            products.append(_finish(draft, len(products), values, overrides, names.get(len(products))))
        return tuple(products)

    def _names(self) -> dict[int, str]:
        """Return the names that tell products without a `file` apart, by index, where the end of their URLs does not."""
        nameless = [i for i, draft in enumerate(self._drafts) if draft.file is None]
        if len(nameless) < 2:
            return {}
        from bulkdl.manifest.product_names import names_apart  # noqa: PLC0415 - most manifests name their files

        taken = self._files.keys() | self._folders.keys()
        names = names_apart([self._drafts[i].url for i in nameless], taken)
        return {nameless[position]: name for position, name in names.items()}

    def accounts_used(self) -> Iterable[tuple[str, list[Place]]]:
        """Return each account that products name, with the first 200 positions that name it."""
        return self._accounts.items()


def _effective(overrides: _Overrides, defaults: Defaults, accounts: Mapping[str, Account]) -> Defaults:
    """Return the values of a product with these overrides."""
    name = overrides.account if overrides.names_account else defaults.account
    account = accounts.get(name) if name is not None else None
    return Defaults(
        account=name,
        headers=defaults.headers if overrides.headers is None else _join(defaults.headers, overrides.headers),
        extract=defaults.extract if overrides.extract is None else overrides.extract,
        verify=overrides.verify or defaults.verify,
        resume=overrides.resume or (account.resume if account else None) or defaults.resume,
    )


def _finish(draft: _Draft, index: int, values: Defaults, overrides: _Overrides, name: str | None) -> Product:
    return Product(
        index=index,
        url=draft.url,
        file=draft.file,
        name=name,
        hint=overrides.hint,
        size=draft.size,
        checksums=draft.checksums,
        account=values.account,
        mirrors=overrides.mirrors,
        headers=values.headers,
        extract=values.extract,
        verify=values.verify,
        resume=values.resume or Resume.STRICT,
        priority=overrides.priority,
        line=draft.line,
    )


def _join(common: Headers, overrides: Headers) -> Headers:
    replaced = {name.lower() for name, _ in overrides}
    return (*(pair for pair in common if pair[0].lower() not in replaced), *overrides)


def _line(line: int) -> str:
    """Describe the position of the other product; products that did not come from a file count from -1 downwards."""
    return f"line {line}" if line > 0 else f"products[{-line - 1}]"
