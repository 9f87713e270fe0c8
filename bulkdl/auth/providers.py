"""Provider presets: public facts about services, as data files. An account's own settings override its preset."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import yaml

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

__all__ = ["Provider", "load", "names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One preset: the account settings it provides, and how sure each fact is."""

    name: str
    description: str
    values: Mapping[str, Any]
    """Key of an account in a manifest -> the preset's value."""
    variants: Mapping[str, Mapping[str, Any]]
    """Another `auth` than the preset's -> the values that change if an account chooses it."""
    netrc_hosts: tuple[str, ...]
    """Machines to look up in `.netrc`, in order."""
    facts: Mapping[str, str]
    """Key -> `checked` (against the service's documentation or code), `reported` (by users) or `unknown`."""
    notes: tuple[str, ...]

    def values_for(self, auth: str | None) -> dict[str, Any]:
        """Return the preset's values for an account with this `auth` (None: the account sets none)."""
        values = dict(self.values)
        if auth is not None and auth != values["auth"]:
            values.update(self.variants.get(auth, {}))
            values["auth"] = auth
        return values


def _folder() -> Traversable:
    from importlib.resources import files  # noqa: PLC0415 - an account without a preset does not need it

    return files("bulkdl").joinpath("data/providers")


def names() -> tuple[str, ...]:
    """Return the names of all presets, sorted."""
    folder = _folder()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


@functools.cache
def load(name: str) -> Provider:
    """Read the preset; raise `KeyError` if there is none of that name."""
    if name not in names():
        raise KeyError(name)
    text = _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader either way
    return Provider(
        name=name,
        description=data["description"],
        values=data["values"],
        variants=data.get("variants", {}),
        netrc_hosts=tuple(data.get("netrc_hosts", ())),
        facts=data["facts"],
        notes=tuple(data.get("notes", ())),
    )
