"""Acting on what an archive says of itself: a dialect's ruling becomes a pause, fewer connections, and an error that says who acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.errors import AccountStopped, ProductFailed, TryAgain
from bulkdl.core.models import FailureKind
from bulkdl.protocol.provider_errors import Action

if TYPE_CHECKING:
    from bulkdl.bench import Bench
    from bulkdl.http.response import Reply
    from bulkdl.protocol.provider_errors import Ruling
    from bulkdl.task import Job

__all__ = ["obey"]


def obey(bench: Bench, job: Job, reply: Reply, ruling: Ruling) -> TryAgain | ProductFailed | AccountStopped | None:
    """Do what `ruling` asks for of everyone, and give the error that ends this attempt.

    None where it speaks of a credential that was not sent: then the status says more.
    """
    account, code = job.product.account, f"{ruling.code}: " if ruling.code else ""
    reason = f"{reply.url.host} answered {reply.head.status} ({code}{ruling.says})"
    match ruling.action:
        case Action.WAIT | Action.FEWER:
            if ruling.wait:
                bench.pauses.pause(job.source.host, min(ruling.wait, bench.settings.max_wait))
            if ruling.action is Action.FEWER:
                bench.connections.lower(account, job.source.host)
            return TryAgain(reason, kind=FailureKind.HTTP, wait=ruling.wait, hint=ruling.hint)
        case Action.STOP if account is not None:
            stop = AccountStopped(reason, account=account, hint=ruling.hint)
            bench.signer(job).stop(stop)
            return stop
        case Action.FAIL:
            return ProductFailed(reason, kind=ruling.kind, hint=ruling.hint)
        case _ if not reply.signed:
            return None
        case _:  # another token has been tried
            hint = ruling.hint or f"Check that account {account} may have this product"
            return ProductFailed(reason, kind=FailureKind.AUTH, hint=hint)
