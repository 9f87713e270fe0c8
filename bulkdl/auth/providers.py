"""The presets: public facts of services, as data files. Whatever an account says itself overrides its preset."""

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
    """A preset: what it sets, by the keys of an account, and how sure each fact is."""

    name: str
    description: str
    values: Mapping[str, Any]
    """By the keys of an account in a manifest."""
    variants: Mapping[str, Mapping[str, Any]]
    """What else holds where the account chooses another `auth` than the preset's, by that `auth`."""
    netrc_hosts: tuple[str, ...]
    """Machines to look up in `.netrc`, in order."""
    facts: Mapping[str, str]
    """By key: `checked` against the service's documentation or code, `reported` by users, `unknown`."""
    notes: tuple[str, ...]

    def values_for(self, auth: str | None) -> dict[str, Any]:
        """What the preset sets for an account that says `auth` (None: says nothing)."""
        values = dict(self.values)
        if auth is not None and auth != values["auth"]:
            values.update(self.variants.get(auth, {}))
            values["auth"] = auth
        return values


def _folder() -> Traversable:
    from importlib.resources import files  # noqa: PLC0415 - an account of one's own needs no preset

    return files("bulkdl").joinpath("data/providers")


def names() -> tuple[str, ...]:
    """The presets there are, sorted."""
    folder = _folder()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


@functools.cache
def load(name: str) -> Provider:
    """The preset of that name; raise `KeyError` where there is none."""
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
