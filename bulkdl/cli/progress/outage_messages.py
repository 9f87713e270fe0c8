"""Format outages for people and for programs; pure functions."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.cli.text import count
from bulkdl.core.events import OutagePhase
from bulkdl.core.models import Trouble
from bulkdl.core.units import format_duration

if TYPE_CHECKING:
    from bulkdl.core.events import NetworkChanged, Outage, OutageChanged

__all__ = [
    "network_fields",
    "network_sentence",
    "outage_fields",
    "outage_row",
    "outage_sentence",
    "outage_text",
    "rfc3339",
]

_WHAT = {
    Trouble.NAME: "has a name that cannot be resolved",
    Trouble.NO_SUCH_NAME: "has a name that does not exist",
    Trouble.REFUSED: "accepts no connection",
    Trouble.TLS: "offers no valid TLS connection",
    Trouble.TIMEOUT: "does not answer",
    Trouble.BROKEN: "breaks connections",
    Trouble.STATUS: "answers with server errors",
    Trouble.BUSY: "says that there are too many requests",
    Trouble.PAGE: "sends a web page instead",
    Trouble.DENIED: "refuses products that came before",
    Trouble.LOGIN: "refuses a login that worked before",
    Trouble.NETWORK: "is out of reach like all others",
}
_NO_CONNECTION = re.compile(r"no connection to (?:the token endpoint )?[^ ]+(?:: | \()(.+?)\)?")
_REFUSED = "connection refused"
_NAMED = 2
"""Most origins that a sentence about the network names."""


def outage_sentence(event: OutageChanged) -> str:
    """Return what happened, since when, who waits, and what happens next."""
    outage = event.outage
    if event.phase is OutagePhase.ENDED:
        return f"{_where(outage)} is back after {format_duration(max(0.0, (outage.ended or 0.0) - outage.began))}"
    if event.phase is OutagePhase.GIVEN_UP:
        return f"{_where(outage)} is given up: it {_what(outage)}"
    return "; ".join([outage_text(outage, waiting=event.waiting), *_what_follows(event)])


def network_sentence(event: NetworkChanged) -> str:
    """Return since when the machine has no network, who cannot be reached, who waits, and what happens next."""
    if event.phase is OutagePhase.ENDED:
        return f"the network is back after {format_duration(max(0.0, (event.ended or 0.0) - event.began))}"
    names = [_host(origin) for origin in event.origins]
    others = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    named = (" and " if len(names) == _NAMED else ", ").join(names[:_NAMED])
    text = f"this machine seems to have no network since {_clock(event.began)}: {named}{others} cannot be reached"
    waits = [_waits(event.waiting)] if event.waiting else []
    return "; ".join([f"{text} ({_short(event.reason)})", *waits, *_what_follows(event)])


def _what_follows(event: OutageChanged | NetworkChanged) -> list[str]:
    next_try = [] if event.next_try is None else [f"next try at {_clock(event.next_try)}"]
    return next_try if event.gives_up is None else [*next_try, f"given up at {_clock(event.gives_up)}"]


def _waits(waiting: int) -> str:
    return f"{count(waiting, 'product')} {'waits' if waiting == 1 else 'wait'}"


def outage_text(outage: Outage, *, waiting: int = 0) -> str:
    """Return an outage as one line: what, since when, and who waits or how long it took."""
    text = f"{_where(outage)} {_what(outage)}"
    if outage.ended is not None:
        return f"{text}; it was back after {format_duration(max(0.0, outage.ended - outage.began))}"
    return f"{text}; {_waits(waiting)}" if waiting else text


def outage_row(outage: Outage, *, waiting: int) -> tuple[str, ...]:
    """Return an outage as cells: where, what, from, to, how long, and how many products waited."""
    to, lasted = "not over", ""
    if outage.ended is not None:
        to, lasted = _moment(outage.ended), format_duration(max(0.0, outage.ended - outage.began))
    return _where(outage), _in_words(outage), _moment(outage.began), to, lasted, f"{waiting:,}"


def _moment(wall: float) -> str:
    return f"{datetime.fromtimestamp(wall).astimezone():%Y-%m-%d %H:%M:%S}"


def _where(outage: Outage) -> str:
    host = _host(outage.origin)
    return host if outage.account is None else f"the token endpoint {host} of account {outage.account}"


def _host(origin: str) -> str:
    return origin.partition("://")[2] or origin


def _what(outage: Outage) -> str:
    ended = f" from {_clock(outage.began)} to {_clock(outage.ended)}" if outage.ended is not None else ""
    return _in_words(outage, ended or f" since {_clock(outage.began)}")


def _in_words(outage: Outage, when: str = "") -> str:
    """Return what happens, with the reason where that says more."""
    reason = _short(outage.reason)
    if outage.kind is Trouble.REFUSED and reason == _REFUSED:
        return f"refuses connections{when}"
    return f"{_WHAT[outage.kind]}{when} ({reason})"


def _short(reason: str) -> str:
    """Return a reason without the host and the port, which the sentence names."""
    found = _NO_CONNECTION.fullmatch(reason)
    return reason if found is None else found[1]


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


def network_fields(event: NetworkChanged) -> dict[str, object]:
    """Return an event about the network as JSON values."""
    return {
        "phase": event.phase.value,
        "origins": list(event.origins),
        "reason": event.reason,
        "began": rfc3339(event.began),
        "ended": None if event.ended is None else rfc3339(event.ended),
        "waiting": event.waiting,
    }


def rfc3339(wall: float) -> str:
    """Return a Unix time as RFC 3339 in local time, in whole seconds."""
    return datetime.fromtimestamp(wall).astimezone().isoformat(timespec="seconds")


def _clock(wall: float) -> str:
    return f"{datetime.fromtimestamp(wall).astimezone():%H:%M:%S}"
