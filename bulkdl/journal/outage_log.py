"""The outages of the last 30 days, in the journal, so that `status` and `report` can tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bulkdl.core.events import Outage
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Trouble

if TYPE_CHECKING:
    import sqlite3

    from bulkdl.core.events import OutageChanged

__all__ = ["RecordedOutage", "close_outages", "load_outages", "put_outage"]

_KEPT_S = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class RecordedOutage:
    outage: Outage
    waiting: int
    """Most products that waited at a time."""


def put_outage(connection: sqlite3.Connection, event: OutageChanged, *, now: float) -> None:
    """Record an event about an outage; `now` is Unix time."""
    outage = event.outage
    connection.execute(
        """
        INSERT INTO outage (origin, account, began, kind, reason, ended, waiting, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET kind = excluded.kind, reason = excluded.reason, ended = excluded.ended,
            waiting = max(waiting, excluded.waiting), updated = excluded.updated
        """,
        (
            outage.origin,
            outage.account or "",
            outage.began,
            outage.kind.value,
            outage.reason,
            outage.ended,
            event.waiting,
            now,
        ),
    )


def close_outages(connection: sqlite3.Connection, *, now: float) -> None:
    """Give an end to the outages of a run that was killed, at the last time it was known to last; drop old ones."""
    connection.execute("UPDATE outage SET ended = updated WHERE ended IS NULL")
    connection.execute("DELETE FROM outage WHERE began < ?", (now - _KEPT_S,))


def load_outages(connection: sqlite3.Connection) -> tuple[RecordedOutage, ...]:
    """Return the recorded outages, the earliest first; an unreadable row is left out."""
    select = "SELECT origin, account, began, kind, reason, ended, waiting FROM outage ORDER BY began"
    return tuple(found for row in connection.execute(select) if (found := _outage(row)) is not None)


def _outage(row: tuple[Any, ...]) -> RecordedOutage | None:
    origin, account, began, kind, reason, ended, waiting = (
        each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in row
    )
    if kind not in set(Trouble) or not isinstance(began, int | float) or not isinstance(ended, int | float | None):
        return None
    outage = Outage(
        origin=origin, account=account or None, kind=Trouble(kind), reason=reason, began=float(began), ended=ended
    )
    return RecordedOutage(outage, int(waiting))
