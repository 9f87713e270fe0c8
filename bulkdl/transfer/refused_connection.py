"""Tell the connection limiter about an attempt that the host refused, probably because of the number of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.models import FailureKind, Trouble
from bulkdl.http.errors import trouble_of

if TYPE_CHECKING:
    from bulkdl.concurrency.connection_limiter import Slot
    from bulkdl.core.errors import TryAgain
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["may_be_limit", "note_refusal", "trouble_before_answer"]

_LATELY_S = 2.0
"""Seconds after its last good answer in which a host that refuses is probably in order."""
_OWN_TROUBLE = 2
"""Refusals of one product, each after others had been answered, that show a trouble of its own."""
_REFUSED_IN_A_ROW = 3
"""Refusals in a row, while it serves nobody, that may still mean a limit of requests."""

MAY_BE_A_LIMIT = frozenset({Trouble.STATUS, Trouble.BROKEN})
"""Troubles by which a host may refuse one connection too many, but which may be a product's own as well.

nginx answers 503 by default where a limit of connections is reached.
"""


def trouble_before_answer(task: DownloadTask, fault: TryAgain) -> Trouble | None:
    """Return the trouble of an attempt that every product of its origin could have met; None if it is the product's own."""
    if fault.trouble is not None or fault.kind is not FailureKind.NETWORK or task.is_answered:
        return fault.trouble
    return trouble_of(fault.__cause__)


def may_be_limit(context: RunContext, task: DownloadTask, fault: TryAgain) -> bool:
    """Return whether the host probably has as many connections or requests as it wants."""
    origin, trouble = task.source.origin, trouble_before_answer(task, fault)
    if trouble is not Trouble.BUSY and (trouble not in MAY_BE_A_LIMIT or fault.origin not in (None, origin)):
        return False
    if context.outages.serves_others(origin, task.product.id):
        return True
    if trouble is Trouble.BUSY:
        return context.outages.answered_lately(origin, _LATELY_S)
    is_new = context.outages.refused_in_a_row(origin) <= _REFUSED_IN_A_ROW
    is_new = is_new and context.outages.turns_others_away(origin, task.product.id)
    return fault.may_be_limit and is_new and context.outages.answered_lately(origin, _LATELY_S)


def note_refusal(context: RunContext, task: DownloadTask, slot: Slot, fault: TryAgain) -> None:
    """Record the refusal of an attempt that `slot` belongs to.

    "Too many requests" is about the number. Another trouble counts only where several products meet it at a time while the
    host serves others, and is withdrawn if a product meets it again and again although others have been answered meanwhile.
    """
    trouble = trouble_before_answer(task, fault)
    if trouble is Trouble.BUSY or trouble in MAY_BE_A_LIMIT:
        context.outages.turn_away(task.source.origin, task.product.id)
    are_several = context.outages.turns_others_away(task.source.origin, task.product.id)
    if trouble is Trouble.BUSY:
        slot.refused(are_several=are_several)
        return
    if not may_be_limit(context, task, fault):
        return
    account, host = task.product.account, task.source.host
    if task.limits_before is None:
        task.limits_before, task.turned_away_alone = context.connections.limits(account, host), 0
    elif context.outages.answers_others(task.source.origin, task.product.id, since=task.turned_away_at):
        task.turned_away_alone += 1
    if task.turned_away_alone >= _OWN_TROUBLE:
        context.connections.restore(account, host, task.limits_before)
    elif are_several:
        slot.refused(are_several=True)
    task.turned_away_at = context.clock.monotonic()
