"""`bulkdl providers`: list the presets, or show the values that one sets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bulkdl.auth import providers as presets
from bulkdl.cli.output import suggest, write_out
from bulkdl.cli.text import clean
from bulkdl.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.auth.providers import Provider
    from bulkdl.cli.dispatch import Invocation

__all__ = ["providers"]


def providers(invocation: Invocation) -> int:
    """List the presets, or show the values that one sets; return the exit code."""
    name: str | None = invocation.arguments.name
    if name is not None and name not in presets.names():
        raise UsageError(f'unknown preset "{clean(name)}"', hint=suggest(name, presets.names(), "presets"))
    chosen = [presets.load(n) for n in (presets.names() if name is None else (name,))]
    if invocation.json:
        write_out(json.dumps({p.name: _provider_json(p) for p in chosen}, indent=2) + "\n")
    elif name is None:
        width = max((len(p.name) for p in chosen), default=0)
        write_out("".join(f"{p.name:<{width}}  {p.description}\n" for p in chosen))
        write_out(
            "\n`bulkdl providers NAME` shows what a preset sets; to use it, write `provider: NAME` in an account.\n"
        )
    else:
        write_out("\n".join(_provider_lines(chosen[0])) + "\n")
    return 0


def _provider_lines(provider: Provider) -> Iterator[str]:
    yield f"{provider.name}: {provider.description}"
    for key, value in provider.values.items():
        fact = provider.facts.get(key, "")
        yield f"  {key + ':':<18}{_plain(value)}{f'   ({fact})' if fact else ''}"
    for auth, values in provider.variants.items():
        yield f"  with auth: {auth}"
        for key, value in values.items():
            yield f"    {key + ':':<16}{_plain(value)}"
    if provider.netrc_hosts:
        yield f"  {'.netrc hosts:':<18}{', '.join(provider.netrc_hosts)}"
    for note in provider.notes:
        yield f"  - {note}"


def _plain(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _provider_json(provider: Provider) -> dict[str, object]:
    return {
        "description": provider.description,
        "values": dict(provider.values),
        "variants": {auth: dict(values) for auth, values in provider.variants.items()},
        "netrc_hosts": list(provider.netrc_hosts),
        "facts": dict(provider.facts),
        "notes": list(provider.notes),
    }
