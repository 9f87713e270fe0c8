"""Format outages for people and for programs; pure functions."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.cli.text import count
from bulkdl.core.events import OutagePhase
from bulkdl.core.models import Trouble
from bulkdl.core.units import format_duration

if TYPE_CHECKING:
    from bulkdl.core.events import Outage, OutageChanged

__all__ = ["outage_fields", "outage_row", "outage_sentence", "outage_text", "rfc3339"]

_WHAT = {
    Trouble.NAME: "has a name that cannot be resolved",
    Trouble.NO_SUCH_NAME: "has a name that does not exist",
    Trouble.REFUSED: "refuses connections",
    Trouble.TLS: "offers no valid TLS connection",
    Trouble.TIMEOUT: "does not answer",
    Trouble.BROKEN: "breaks connections",
    Trouble.STATUS: "answers with server errors",
    Trouble.BUSY: "says that there are too many requests",
    Trouble.PAGE: "sends a web page instead",
    Trouble.DENIED: "refuses products that came before",
    Trouble.LOGIN: "refuses a login that worked before",
}


def outage_sentence(event: OutageChanged) -> str:
    """Return what happened, since when, who waits, and what happens next."""
    outage = event.outage
    if event.phase is OutagePhase.ENDED:
        return f"{_where(outage)} is back after {format_duration(max(0.0, (outage.ended or 0.0) - outage.began))}"
    if event.phase is OutagePhase.GIVEN_UP:
        return f"{_where(outage)} is given up: it {_what(outage)}"
    parts = [outage_text(outage, waiting=event.waiting)]
    if event.next_try is not None:
        parts.append(f"next try at {_clock(event.next_try)}")
    if event.gives_up is not None:
        parts.append(f"given up at {_clock(event.gives_up)}")
    return "; ".join(parts)


def outage_text(outage: Outage, *, waiting: int = 0) -> str:
    """Return an outage as one line: what, since when, and who waits or how long it took."""
    text = f"{_where(outage)} {_what(outage)}"
    if outage.ended is not None:
        return f"{text}; it was back after {format_duration(max(0.0, outage.ended - outage.began))}"
    return f"{text}; {count(waiting, 'product')} {'waits' if waiting == 1 else 'wait'}" if waiting else text


def outage_row(outage: Outage, *, waiting: int) -> tuple[str, ...]:
    """Return an outage as cells: where, what, from, to, how long, and how many products waited."""
    to, lasted = "not over", ""
    if outage.ended is not None:
        to, lasted = _moment(outage.ended), format_duration(max(0.0, outage.ended - outage.began))
    what = f"{_WHAT[outage.kind]} ({outage.reason})"
    return _where(outage), what, _moment(outage.began), to, lasted, f"{waiting:,}"


def _moment(wall: float) -> str:
    return f"{datetime.fromtimestamp(wall).astimezone():%Y-%m-%d %H:%M:%S}"


def _where(outage: Outage) -> str:
    host = outage.origin.partition("://")[2] or outage.origin
    return host if outage.account is None else f"the token endpoint {host} of account {outage.account}"


def _what(outage: Outage) -> str:
    ended = f" from {_clock(outage.began)} to {_clock(outage.ended)}" if outage.ended is not None else ""
    return f"{_WHAT[outage.kind]}{ended or f' since {_clock(outage.began)}'} ({outage.reason})"


def outage_fields(outage: Outage, *, waiting: int = 0) -> dict[str, object]:
    """Return an outage as JSON values, as the contract's summary has it."""
    values: dict[str, object] = {
        "origin": outage.origin,
        "kind": outage.kind.value,
        "began": rfc3339(outage.began),
        "ended": None if outage.ended is None else rfc3339(outage.ended),
        "waiting": waiting,
    }
    return values if outage.account is None else {**values, "account": outage.account}


def rfc3339(wall: float) -> str:
    """Return a Unix time as RFC 3339 in local time, in whole seconds."""
    return datetime.fromtimestamp(wall).astimezone().isoformat(timespec="seconds")


def _clock(wall: float) -> str:
    return f"{datetime.fromtimestamp(wall).astimezone():%H:%M:%S}"
