"""From an error response to the error that says who acts: this attempt, the product or the account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.content.error_pages import HEAD_SIZE, objection
from bulkdl.core.errors import AccountStopped, ProductFailed, TryAgain
from bulkdl.core.events import Level
from bulkdl.core.models import FailureKind, Trouble
from bulkdl.protocol.content_coding import has_aws_chunks
from bulkdl.protocol.headers import parse_retry_after
from bulkdl.protocol.provider_errors import ErrorAction
from bulkdl.protocol.resume import Action, Decision, DecisionReason

if TYPE_CHECKING:
    from bulkdl.http.response import Response
    from bulkdl.protocol.provider_errors import ErrorInterpretation
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask


__all__ = [
    "SNIFF",
    "apply_interpretation",
    "believed_twice",
    "compared",
    "error_for_response",
    "not_the_product",
    "objection_to",
]


SHORT_PAUSE_S = 30.0
"""Longest pause of a host after a 503 (s)."""
_RETRY_AFTER_STATUSES = (429, 503)
"""Statuses after which all requests to the host pause (429: too many requests, 503: unavailable)."""
_CANNOT_RESUME = "{where} cannot resume this file ({status}: {why}): downloading it again from the start"


def error_for_response(
    context: RunContext, task: DownloadTask, response: Response, decision: Decision
) -> TryAgain | ProductFailed | AccountStopped:
    """Return the error for a response whose body cannot be used."""
    account, host = task.product.account, task.source.host
    _log_request_id(context, task, response)
    if response.interpretation is not None:
        error = apply_interpretation(context, response, response.interpretation, account=account, host=host)
        if error is not None:
            return error
    status, where = response.head.status, response.url.host
    wait = parse_retry_after(response.head.retry_after, now=context.clock.wall())
    match decision.action:
        case Action.WAIT:
            return TryAgain(
                f"{where} is preparing the product (202)",
                kind=FailureKind.OFFLINE,
                wait=wait,
                hint="Run the same command again later",
            )
        case Action.REQUEST_WHOLE:
            return TryAgain(
                _CANNOT_RESUME.format(where=where, status=status, why=decision.why), kind=FailureKind.HTTP, restart=True
            )
        case Action.REFUSED:
            return _refused(response, account=account)
        case Action.RETRY if decision.why is DecisionReason.STATUS:
            if status in _RETRY_AFTER_STATUSES and wait:
                # A 503 may concern this product alone, so the other products do not wait long for it.
                longest = wait if status == 429 else SHORT_PAUSE_S
                context.pauses.pause(host, min(wait, longest, context.settings.max_wait))
            return TryAgain(
                f"{where} answered {status}{_through(response)}{_words(response)}",
                kind=FailureKind.HTTP,
                wait=wait,
                hint=_LATER if status >= 500 else "",
                trouble=Trouble.BUSY if status == 429 else Trouble.STATUS,
                may_be_limit=status in _RETRY_AFTER_STATUSES,
            )
        case Action.RETRY:
            if decision.why is DecisionReason.RANGE_UNSATISFIABLE:
                reason = f"{where} answered 416 (range not satisfiable) although no range was requested"
                return TryAgain(reason, kind=FailureKind.HTTP)
            return TryAgain(f"{where} sent {decision.why}", kind=FailureKind.HTTP)
        case _ if decision.why is DecisionReason.WRONG_SIZE:
            hint = "Check the size in the manifest"
            failed = ProductFailed(decision.detail, kind=FailureKind.SIZE, hint=hint, is_refusal=True)
            return believed_twice(task, failed)
        case _ if decision.why is DecisionReason.CODED:
            before, transfer, coding = decision.detail.rpartition("transfer ")
            name = f"transfer coding {coding}" if transfer and not before else f"content coding {decision.detail}"
            reason = f"{where} sent the {name}, which was not requested"
            return believed_twice(task, ProductFailed(reason, kind=FailureKind.CONTENT))
        case _:
            failed = ProductFailed(
                f"{where} answered {status}{_through(response)}{_words(response)}",
                kind=FailureKind.HTTP,
                hint=_STATUS_HINTS.get(status, ""),
                is_refusal=True,
            )
            # Where bytes of the product have come, a refusal may be the mistake of one node.
            return believed_twice(task, failed) if task.budget.furthest else failed


def believed_twice(task: DownloadTask, failed: ProductFailed, *, restart: bool = False) -> TryAgain | ProductFailed:
    """Return `failed` if a response has given the same verdict before; else `TryAgain`, since one response may be odd."""
    if failed.reason in task.rejections.doubts:
        return failed
    task.rejections.doubts.add(failed.reason)
    return TryAgain(failed.reason, kind=failed.kind, hint=failed.hint, restart=restart)


def _through(response: Response) -> str:
    """Return which proxy forwarded an error, as it may be the proxy's own."""
    return f" through the proxy {response.proxy}" if response.proxy else ""


def _words(response: Response) -> str:
    """Return what the archive itself says about the error, to stand behind the status."""
    return f": {response.error_text}" if response.error_text else ""


def _log_request_id(context: RunContext, task: DownloadTask, response: Response) -> None:
    """Note the id of a request that failed: the archive's operator finds it in the server's log."""
    if response.request_id:
        text = f"{task.shown}: {response.url.host} answered {response.head.status}, {response.request_id}"
        context.hub.note(Level.DEBUG, text, task.product)


_LATER = "Run the same command again later; if it stays so, report it to the archive"
_STATUS_HINTS = {
    204: "The server says that there is no content: check the URL, or ask the archive",
    **dict.fromkeys(
        (301, 302, 303, 307, 308),
        "The redirect names no target: open the URL in a browser, or report it to the archive",
    ),
    400: "Check the URL in the manifest",
    404: "Check the URL: the product may have moved or been withdrawn",
    410: "The product has been withdrawn",
    451: "The server withholds the product for legal reasons",
}


def _refused(response: Response, *, account: str | None) -> ProductFailed:
    status, where = response.head.status, response.url.host
    if account is None:
        hint = "Name an account for this product in the manifest"
    elif not response.signed and response.signed_in_at:
        # Its `hosts` are right: the credential belongs to the login host, and the archive refuses whom it knows.
        hint = f"Account {account} signed in at {response.signed_in_at}: accept the licence of the product there or at {where}, or ask for access"
    elif not response.signed:
        hint = f"The credential of account {account} was not sent: its `hosts` do not list {where}"
    else:
        hint = f"Account {account} is signed in: check that it has access to this product, or accept its licence on the provider's site"
    reason = f"{where} refused access ({status}){_through(response)}{_words(response)}"
    return ProductFailed(reason, kind=FailureKind.AUTH, hint=hint, is_refusal=True)


def apply_interpretation(
    context: RunContext, response: Response, ruling: ErrorInterpretation, *, account: str | None, host: str
) -> TryAgain | ProductFailed | AccountStopped | None:
    """Do for the whole run what `ruling` requires, and return the error that ends this attempt.

    `host` is the product's source, which may redirect elsewhere. Return None if `ruling` is about a credential that was not
    sent: then the status tells more.
    """
    code = f"{ruling.code}: " if ruling.code else ""
    reason = f"{response.url.host} answered {response.head.status} ({code}{ruling.text}){_words(response)}"
    match ruling.action:
        case ErrorAction.WAIT | ErrorAction.FEWER:
            if ruling.wait:
                context.pauses.pause(host, min(ruling.wait, context.settings.max_wait))
            return TryAgain(reason, kind=FailureKind.HTTP, wait=ruling.wait, hint=ruling.hint, trouble=Trouble.BUSY)
        case ErrorAction.STOP if account is not None:
            stop = AccountStopped(reason, account=account, hint=ruling.hint)
            context.signers[account].stop(stop)
            return stop
        case ErrorAction.FAIL:
            return ProductFailed(reason, kind=ruling.kind, hint=ruling.hint, is_refusal=True)
        case _ if not response.signed:
            return None
        case _:  # a new token has been tried as well
            hint = ruling.hint or f"Check that account {account} has access to this product"
            return ProductFailed(reason, kind=FailureKind.AUTH, hint=hint, is_refusal=True)


SNIFF = 1024
"""Bytes of a body that must have arrived before it is checked for an error page."""


CONTENT_TRIES = 3
"""Attempts if the server sends a page instead of the product: a maintenance page goes away, a login page does not."""


def objection_to(task: DownloadTask, head: bytes, *, name: str, content_type: str, size: int | None) -> str | None:
    """Return why a body that begins with `head` cannot be the product `name`; None if it can."""
    if has_aws_chunks(head):
        return "the content still has the chunk framing of its upload (aws-chunked)"
    accept = None
    if task.product.headers:
        accept = next((value for key, value in task.product.headers if key.lower() == "accept"), None)
    return objection(
        name=name,
        head=head[:HEAD_SIZE],
        content_type=content_type,
        size=size,
        requested_accept=accept,
        name_is_guess=task.product.file is None,
    )


def not_the_product(reason: str) -> TryAgain:
    """Return the error for a body that is not the product, such as an error page."""
    return TryAgain(
        reason,
        kind=FailureKind.CONTENT,
        limit=CONTENT_TRIES,
        trouble=Trouble.PAGE,
        hint="Open the URL in a browser: it may need a login or a licence, or the URL may be wrong",
    )


def compared(chunk: bytes, compare: bytes) -> tuple[bytes, bytes]:
    """Compare the overlap of `chunk` with `compare`, the bytes on disk; return what is left of both.

    Raise `TryAgain` (restart) if they differ.
    """
    count = min(len(chunk), len(compare))
    if chunk[:count] != compare[:count]:
        raise TryAgain(
            "the server has another version of the file now: downloading it again from the start",
            kind=FailureKind.CONTENT,
            restart=True,
        )
    return chunk[count:], compare[count:]
