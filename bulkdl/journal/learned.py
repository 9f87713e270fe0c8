"""Facts learned across runs: bad sources, servers, their connections and stopped accounts, as JSON rows with a CRC each.

An unreadable row affects only itself: that product is downloaded again, or that host is treated as a new one. Facts
about a host expire after 30 days. They save requests or withdraw trust from a validator; they never make two byte
ranges pass for one representation.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Any, TypeVar

from bulkdl.concurrency.host_memory import HostMemory, fresh
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Checksum
from bulkdl.protocol.bad_source import BadSourceEvidence, ValidatorSnapshot
from bulkdl.protocol.server_quirks import EXPIRES_S, ServerFacts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

__all__ = [
    "AccountStop",
    "Learned",
    "drop_account_stop",
    "drop_evidence",
    "load_learned",
    "put_account_stop",
    "put_connections",
    "put_evidence",
    "put_host",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AccountStop:
    """Reason why a run left the products of an account pending."""

    name: str
    reason: str
    at: float
    """Unix time."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Facts from earlier runs."""

    evidence: dict[str, BadSourceEvidence] = field(default_factory=dict)
    """By `Product.id`."""
    hosts: dict[str, ServerFacts] = field(default_factory=dict)
    """By origin."""
    unreadable: int = 0
    """Number of products with unreadable evidence."""
    account_stops: dict[str, AccountStop] = field(default_factory=dict)
    """By account, of the last run that used the account."""
    connections: tuple[HostMemory, ...] = ()


def load_learned(connection: sqlite3.Connection, *, now: float) -> Learned:
    """Read every intact row; skip hosts last seen more than `EXPIRES_S` ago (`now` is Unix time)."""
    evidence, unreadable = _load(connection, "SELECT facts, crc FROM faulty", _evidence)
    hosts, _ = _load(connection, "SELECT facts, crc FROM host", _host)
    memories, _ = _load(connection, "SELECT facts, crc FROM connections ORDER BY host, account", _connections)
    recent = (fresh(memory, now=now) for memory in memories)
    return Learned(
        {e.id: e for e in evidence},
        {h.origin: h for h in hosts if now - h.at < EXPIRES_S},
        unreadable,
        {stop.name: stop for stop in _load(connection, "SELECT facts, crc FROM account", _account_stop)[0]},
        tuple(memory for memory in recent if memory.at),
    )


def put_evidence(connection: sqlite3.Connection, evidence: BadSourceEvidence) -> None:
    values = (_key(evidence.id), *_row(asdict(evidence)))
    connection.execute("INSERT OR REPLACE INTO faulty (id, facts, crc) VALUES (?, ?, ?)", values)


def drop_evidence(connection: sqlite3.Connection, id: str) -> None:  # noqa: A002
    connection.execute("DELETE FROM faulty WHERE id = ?", (_key(id),))


def put_host(connection: sqlite3.Connection, facts: ServerFacts) -> None:
    values = (_key(facts.origin), *_row(asdict(facts)))
    connection.execute("INSERT OR REPLACE INTO host (origin, facts, crc) VALUES (?, ?, ?)", values)


def put_connections(connection: sqlite3.Connection, memory: HostMemory) -> None:
    """Replace what is remembered of the account and host."""
    values = (_key(memory.account or ""), _key(memory.host), *_row(asdict(memory)))
    connection.execute("INSERT OR REPLACE INTO connections (account, host, facts, crc) VALUES (?, ?, ?, ?)", values)


def put_account_stop(connection: sqlite3.Connection, stop: AccountStop) -> None:
    values = (_key(stop.name), *_row(asdict(stop)))
    connection.execute("INSERT OR REPLACE INTO account (name, facts, crc) VALUES (?, ?, ?)", values)


def drop_account_stop(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM account WHERE name = ?", (_key(name),))


def _key(text: str) -> str | bytes:
    """Return `text` for SQLite: as UTF-8 bytes if it holds lone surrogates (a name that was not UTF-8)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _row(values: dict[str, Any]) -> tuple[str, int]:
    text = json.dumps(values)  # ASCII output: lone surrogates survive the round trip
    return text, zlib.crc32(text.encode())


def _load(connection: sqlite3.Connection, select: str, decode: Callable[[dict[str, Any]], T]) -> tuple[list[T], int]:
    found: list[T] = []
    unreadable = 0
    connection.text_factory = bytes  # so that text that is not UTF-8 makes only its own row unreadable
    for text, crc in connection.execute(select):
        try:
            found.append(decode(_facts(text, crc)))
        except (ValueError, TypeError, KeyError):
            unreadable += 1
    return found, unreadable


def _facts(text: bytes, crc: int) -> dict[str, Any]:
    if zlib.crc32(text) != crc:
        raise ValueError("damaged")
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise TypeError("not an object")
    return facts


def _evidence(facts: dict[str, Any]) -> BadSourceEvidence:
    sums = {name: tuple(Checksum(**c) for c in facts[name]) for name in ("expected", "found")}
    return BadSourceEvidence(**{**facts, **sums, "seen": tuple(ValidatorSnapshot(**s) for s in facts["seen"])})


def _connections(facts: dict[str, Any]) -> HostMemory:
    """Return what is remembered of a host; raise `ValueError` if a value is not what this program writes."""
    account, host = facts["account"], facts["host"]
    if not isinstance(host, str) or not isinstance(account, str | None):
        raise ValueError("not a name")  # noqa: TRY004 - as for every other unreadable row
    numbers = [value for name, value in facts.items() if name not in ("account", "host", "is_rate_of_answers")]
    if not all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers):
        raise ValueError("not a number")
    if not all(isinstance(facts[name], int) for name in ("connections", "refused")):
        raise ValueError("not a whole number")
    return HostMemory(**facts)


def _account_stop(facts: dict[str, Any]) -> AccountStop:
    return AccountStop(name=str(facts["name"]), reason=str(facts["reason"]), at=float(facts["at"]))


_FORMER_HOST_FACTS = frozenset({"validated", "bare", "validators_at"})
"""Counters that older versions wrote; they are ignored."""


def _host(facts: dict[str, Any]) -> ServerFacts:
    """Return the facts about a host; raise `ValueError` if one that is calculated with is not a number."""
    facts = {name: value for name, value in facts.items() if name not in _FORMER_HOST_FACTS}
    if any(not isinstance(value, int | float) for name, value in facts.items() if name != "origin"):
        raise ValueError("not a number")
    return ServerFacts(**facts)
