"""Load a manifest, a list of URLs or a mapping into a frozen `Manifest`.

A file is read once, streaming. All problems are collected and raised together in one `ManifestError`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from bulkdl.core import gc_control
from bulkdl.core.errors import ManifestError, Problem
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Manifest, Resume, Verify
from bulkdl.manifest.plain_data import to_plain
from bulkdl.manifest.problems import FatalProblem, Findings, excerpt
from bulkdl.manifest.products import Defaults, Products
from bulkdl.manifest.schema import check_head
from bulkdl.manifest.settings import by_name
from bulkdl.manifest.source_position import Place, places_of
from bulkdl.manifest.text_source import Source
from bulkdl.manifest.validators import Environment, check_headers, expand, resolve_path
from bulkdl.manifest.yaml_reader import read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from bulkdl.core.models import Account
    from bulkdl.manifest.schema import Path as SchemaPath
    from bulkdl.manifest.text_source import ByteStream

__all__ = ["from_mapping", "load", "load_text"]


def load(
    path: str, *, stdin: ByteStream | None = None, destination: Path | None = None, environ: Mapping[str, str]
) -> Manifest:
    """Read the manifest or list of URLs at `path`; `-` is standard input (`stdin`, else the process's own).

    `destination` is the value of `-d`, relative to the current folder; it overrides the manifest's. Raise
    `ManifestError` with every problem and its position.
    """
    if path == "-":
        return _Loader(path, Path.cwd(), destination, environ).stream(stdin or sys.stdin.buffer)
    try:
        base = Path(path).absolute().parent
        with Path(path).open("rb") as stream:
            return _Loader(path, base, destination, environ).stream(stream)
    except (OSError, ValueError) as error:
        raise ManifestError(path, (Problem(0, 0, _read_error(error)),)) from None


def load_text(
    text: str | bytes,
    *,
    name: str = "-",
    base: Path | None = None,
    destination: Path | None = None,
    environ: Mapping[str, str],
) -> Manifest:
    """Read a manifest or a list of URLs from `text`; relative paths start at `base`, else at the current folder.

    Raise `ManifestError` with every problem and its position.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return _Loader(name, (base or Path.cwd()).absolute(), destination, environ).stream(io.BytesIO(raw))


def from_mapping(
    data: Mapping[str, object],
    *,
    base: Path | None = None,
    destination: Path | None = None,
    environ: Mapping[str, str],
    name: str = "<manifest>",
) -> Manifest:
    """Build a manifest from plain data, under the same rules as a file.

    Relative paths start at `base`, else at the current folder. Raise `ManifestError`, whose problems give their
    position as `products[3].url`.
    """
    return _Loader(name, (base or Path.cwd()).absolute(), destination, environ).mapping(data)


def _read_error(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "no such file; expected a manifest, a list of URLs, or - for standard input"
        case IsADirectoryError():
            return "this is a folder; expected a manifest or a list of URLs"
        case PermissionError():
            return "no permission to read it; check the file's permissions"
        case OSError():
            return f"it cannot be read: {error.strerror or error}"
    return "it cannot be read: not a valid path"


@dataclass(slots=True)
class _Loader:
    """The state of loading one manifest."""

    path: str
    base: Path
    destination: Path | None
    environ: Mapping[str, str]

    @gc_control.disabled()
    def stream(self, stream: ByteStream) -> Manifest:
        findings = Findings()
        products = Products(findings)
        try:
            source = Source(stream)
            head, place = (
                _read_list(source, products)
                if source.is_url_list()
                else read_yaml(source, on_product=products.add, note=findings.add)
            )
        except FatalProblem as fatal:
            findings.add_problem(fatal.problem)
            findings.raise_if_any(self.path)
            raise
        return self._finish(head, place, products, findings)

    @gc_control.disabled()
    def mapping(self, data: Mapping[str, object]) -> Manifest:
        findings = Findings()
        head = to_plain(data, findings)
        findings.raise_if_any(self.path)
        return self._finish(head, places_of(head), Products(findings), findings)

    def _finish(self, head: Any, place: Place, products: Products, findings: Findings) -> Manifest:
        if isinstance(head, dict) and isinstance(head.get("products"), list) and head["products"]:
            for i, value in enumerate(head["products"]):
                products.add(value, place.at("products", i))
            head = {**head, "products": []}
        bad = check_head(head, place, findings)
        if () in bad:
            findings.raise_if_any(self.path)
        environment = Environment(environ=self.environ, base=self.base, findings=findings)
        known = head.get("accounts", {})
        head = _without(head, bad)
        settings = _settings(head.get("settings", {}), place.at("settings"), environment)
        accounts = _accounts(head.get("accounts", {}), place.at("accounts"), environment)
        defaults = _defaults(head.get("defaults", {}), place.at("defaults"), findings)
        _check_accounts(known, defaults, products, place, findings)
        destination, shown = self._destination(head.get("destination"), place.at("destination"), findings)
        if not len(products) and ("products",) not in bad:
            findings.warn(place.at("products"), "the list of products is empty")
        findings.raise_if_any(self.path)
        finished = products.finish(defaults, accounts)
        if accounts:
            from bulkdl.manifest.accounts import with_product_hosts  # noqa: PLC0415 - as in `_accounts`

            accounts = with_product_hosts(accounts, finished)
        return Manifest(
            path=self.path,
            destination=destination,
            destination_shown=str(PurePath(shown)),
            settings=settings,
            accounts=accounts,
            products=finished,
            warnings=findings.warnings(),
        )

    def _destination(self, text: str | None, place: Place, findings: Findings) -> tuple[Path, str]:
        if self.destination is not None:
            return self.destination.absolute(), str(self.destination)
        expanded = None if text is None else expand(text, self.environ, place, findings)
        return resolve_path(expanded or ".", self.base), text or "."


def _read_list(source: Source, products: Products) -> tuple[object, Place]:
    """Read a plain list: one URL a line, with blank lines and `#` comments. Its destination is the current folder."""
    for number, line in source.lines():
        text = line.strip()
        if text and not text.startswith("#"):
            products.add_listed(text, Place(number, len(line) - len(line.lstrip()) + 1))
    return {"destination": str(Path.cwd()), "products": []}, Place(1, 1)


def _without(value: Any, bad: AbstractSet[SchemaPath]) -> Any:
    """Remove the values at the bad paths (for a list, all of it), so that the rest can still be checked."""
    if not bad:
        return value
    return {
        key: _without(child, {path[1:] for path in bad if path[0] == key and isinstance(child, dict)})
        for key, child in value.items()
        if (key,) not in bad and not (isinstance(child, list) and any(path[0] == key for path in bad))
    }


def _settings(values: dict[str, Any], place: Place, environment: Environment) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        if value is None:
            continue
        if key == "ca_file":
            expanded = expand(value, environment.environ, place.at(key), environment.findings)
            if expanded is not None:
                found[key] = resolve_path(expanded, environment.base)
            continue
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        try:
            found[key] = by_name(key).parse(text)
        except ValueError as error:
            environment.findings.add(place.at(key), f"`{key}`: {error}")
    return found


def _accounts(values: dict[str, Any], place: Place, environment: Environment) -> dict[str, Account]:
    if not values:
        return {}
    from bulkdl.manifest.accounts import read_account  # noqa: PLC0415 - presets and hosts only where there are accounts

    found = {}
    for name, own in values.items():
        if not name.strip() or not name.isprintable() or len(name) > 100:
            environment.findings.add(place.key(name), "expected an account name of 1 to 100 printable characters")
            continue
        account = read_account(name, own, place.at(name), environment)
        if account is not None:
            found[name] = account
    return found


def _defaults(values: dict[str, Any], place: Place, findings: Findings) -> Defaults:
    return Defaults(
        account=values.get("account"),
        headers=check_headers(values.get("headers", {}), place.at("headers"), findings),
        extract=values.get("extract", False),
        verify=Verify(values.get("verify", Verify.BASIC)),
        resume=Resume(values["resume"]) if "resume" in values else None,
    )


def _check_accounts(known: Any, defaults: Defaults, products: Products, place: Place, findings: Findings) -> None:
    """Report each named account that does not exist; if `accounts` is not a mapping, report nothing."""
    if not isinstance(known, dict):
        return
    used = [(name, there) for name, places in products.accounts_used() for there in places]
    if defaults.account is not None:
        used.append((defaults.account, place.at("defaults", "account")))
    for name, there in used:
        if name not in known:
            import difflib  # noqa: PLC0415 - only where something is misspelt

            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            advice = f'did you mean "{close[0]}"?' if close else "add it under `accounts`, or write null for none"
            findings.add(there, f'unknown account "{excerpt(name)}"; {advice}')
