"""Check the manifest's structure against its JSON Schema, and describe each mismatch in one message.

The schema is the only source of the structure. Its keyword `x-expected` holds the words for what a value should be.
jsonschema-rs reports all errors at once; it takes about 3 µs for a product and 30 ms to import.
"""

from __future__ import annotations

import functools
import json
import pkgutil
from typing import TYPE_CHECKING, Any

import jsonschema_rs

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.manifest.problems import SECRET_KEYS, describe, excerpt

if TYPE_CHECKING:
    from bulkdl.manifest.problems import Findings
    from bulkdl.manifest.source_position import Place

__all__ = ["Path", "check_head", "check_product", "schema_text"]

_COMMON_MISTAKES = {
    "connections": "max_connections",
    "dest": "destination",
    "filename": "file",
    "hash": "checksum",
    "host": "hosts",
    "link": "url",
    "md5": "checksum",
    "name": "file",
    "out": "file",
    "output": "file",
    "pass": "password",
    "path": "file",
    "sha256": "checksum",
    "totp": "totp_secret",
    "type": "auth",
    "user": "username",
}


def schema_text() -> str:
    """Return the JSON Schema of the manifest as text."""
    return (pkgutil.get_data("bulkdl", "data/manifest.schema.json") or b"").decode()


Path = tuple[str | int, ...]
_NONE: frozenset[Path] = frozenset()


@dataclass(frozen=True, slots=True)
class _Checker:
    schema: dict[str, Any]
    validator: jsonschema_rs.Draft202012Validator
    prefix: Path
    """Path in the manifest of the values that this schema checks."""


@functools.cache
def _head_checker() -> _Checker:
    schema: dict[str, Any] = json.loads(schema_text())
    return _Checker(schema, jsonschema_rs.Draft202012Validator(schema), ())


@functools.cache
def _product_checker() -> _Checker:
    schema = {"$ref": "#/$defs/product", "$defs": _head_checker().schema["$defs"]}
    return _Checker(schema, jsonschema_rs.Draft202012Validator(schema), ("products", 0))


def check_head(value: object, place: Place, findings: Findings) -> frozenset[Path]:
    """Report the problems of all but the products; return the paths that must not be read further."""
    checker = _head_checker()
    return _NONE if checker.validator.is_valid(value) else _explain(checker, value, place, findings)


def check_product(value: object, place: Place, findings: Findings) -> frozenset[Path]:
    """Report the problems of a product's structure; return the paths that must not be read further."""
    checker = _product_checker()
    if checker.validator.is_valid(value):
        return _NONE
    if findings.is_full:
        findings.count()
        return frozenset({()})
    return _explain(checker, value, place, findings)


def _explain(checker: _Checker, value: object, place: Place, findings: Findings) -> frozenset[Path]:
    bad: set[Path] = set()
    for error in checker.validator.iter_errors(value):
        path = tuple(error.instance_path)
        kind = error.kind.as_dict()
        where = _where(checker.prefix + path)
        if error.kind.name == "additionalProperties":
            allowed = sorted(_schema_part(checker.schema, error.schema_path).get("properties", {}))
            for key in kind["unexpected"]:
                bad.add((*path, key))
                findings.add(
                    place.key(*path, key), f'unknown key "{excerpt(key)}" of {where}{_suggestion(key, allowed)}'
                )
        elif error.kind.name == "required":
            bad.add((*path, kind["property"]))
            findings.add(place.at(*path), f"{where} needs the key `{kind['property']}`")
        elif path not in bad:  # one message for one value, even if it breaks several rules
            bad.add(path)
            findings.add(
                place.at(*path),
                _mismatch(checker.prefix + path, _schema_part(checker.schema, error.schema_path), error.instance),
            )
    return frozenset(bad)


def _mismatch(path: Path, schema: dict[str, Any], found: Any) -> str:
    expected = schema.get("x-expected", "something else")
    secret = _may_be_secret(path)
    name = next((step for step in reversed(path) if isinstance(step, str)), "")
    subject = f"`{name}`: " if path and path != ("products", 0) else ""
    advice = ""
    if secret:
        advice = "; put the secret in the environment and write ${NAME}"
    elif isinstance(found, int | float) and schema.get("type") in ("string", ["string", "null"]):
        advice = "; put it in quotes"
    elif isinstance(found, str) and found.lower() in {"yes", "no", "on", "off"} and schema.get("type") == "boolean":
        advice = f"; write {'true' if found.lower() in {'yes', 'on'} else 'false'}"
    return f"{subject}expected {expected}, found {describe(found, secret=secret)}{advice}"


def _may_be_secret(path: Path) -> bool:
    """Return whether the value at `path` may be a secret: also text in place of an account or of its list of values."""
    if not path:
        return False
    return path[-1] in SECRET_KEYS or "headers" in path or (path[0] == "accounts" and len(path) <= 2)


def _where(path: Path) -> str:
    match path:
        case ():
            return "the manifest"
        case ("products", _):
            return "a product"
        case ("accounts", name):
            return f'the account "{name}"'
        case ("settings" | "defaults" as name,):
            return f"`{name}`"
    return f"`{path[-1]}`"


def _suggestion(key: str, allowed: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only where something is misspelt

    likely = key.lower().replace("-", "_")
    close = difflib.get_close_matches(likely, allowed, n=1, cutoff=0.7)
    if close:
        return f'; did you mean "{close[0]}"?'
    if _COMMON_MISTAKES.get(likely) in allowed:
        return f'; did you mean "{_COMMON_MISTAKES[likely]}"?'
    return f"; expected one of {', '.join(allowed)}"


def _schema_part(schema: dict[str, Any], path: list[str | int]) -> dict[str, Any]:
    """Return the part of the schema that holds the keyword at the end of `path`."""
    part: Any = schema
    for step in path[:-1]:
        part = part[step]
    return part if isinstance(part, dict) else {}
