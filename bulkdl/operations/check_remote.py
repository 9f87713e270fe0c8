"""Ask the archives about products without downloading them, for `bulkdl check --remote`."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from bulkdl.concurrency.connection_limiter import FIRST_CONNECTIONS, ConnectionLimiter
from bulkdl.content.error_pages import objection
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import AccountStopped, ProductFailed, TryAgain
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.urls import HostList
from bulkdl.http.probe import probe
from bulkdl.operations.services import Services
from bulkdl.planning.plan import selected
from bulkdl.protocol.content_coding import parse_codings
from bulkdl.protocol.content_disposition import file_name
from bulkdl.protocol.headers import strong_etag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bulkdl.auth.base import Authenticator
    from bulkdl.auth.credentials import Prompt
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Manifest, Product, RunOptions, Settings
    from bulkdl.http.client import HttpClient
    from bulkdl.http.response import Response
    from bulkdl.protocol.response_head import Head

__all__ = ["RemoteFacts", "check_remote"]

_LOOKED_AT = 1024
"""Bytes at the beginning of a body that are checked for an error page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFacts:
    """An archive's response about one product."""

    index: int
    """Index of the product in the manifest."""
    file: str
    """File name that the product would get."""
    status: int | None = None
    """Status of the response; None if there was none."""
    size: int | None = None
    resumable: bool = False
    """True if the server supports ranges and sends a strong validator."""
    problem: str = ""
    """Reason why it cannot be downloaded, or differs from the manifest; "" if there is none."""
    account_stopped: bool = False
    """True if the account is the problem, not the product."""


async def check_remote(
    manifest: Manifest,
    *,
    settings: Settings,
    options: RunOptions,
    hub: Hub,
    environ: Mapping[str, str],
    prompt: Prompt | None = None,
    on_done: Callable[[RemoteFacts], None] = lambda _facts: None,
) -> tuple[RemoteFacts, ...]:
    """Request the head of every product, in the manifest's order, without writing anything."""
    products = selected(manifest.products, options.select)
    clock, rng = SystemClock(), random.Random()  # noqa: S311 - jitter
    services = Services(settings=settings, environ=environ, prompt=prompt, hub=hub, clock=clock, rng=rng)
    async with services.network() as network:
        needed = {p.account for p in products if p.account is not None}
        signers = services.authenticators(manifest.accounts, needed=needed, endpoint=network.endpoint)
        limits = {name: signer.max_connections for name, signer in signers.items() if name is not None}
        connections = ConnectionLimiter(most=settings.workers or FIRST_CONNECTIONS, accounts=limits, clock=clock)

        async def one(product: Product) -> RemoteFacts:
            async with connections.slot(account=product.account, host=product.url.host):
                facts = await _ask(network.http, product, signers[product.account])
            on_done(facts)
            return facts

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(product)) for product in products]
        finally:
            for signer in signers.values():
                await signer.aclose()
    return tuple(task.result() for task in tasks)


async def _ask(http: HttpClient, product: Product, signer: Authenticator) -> RemoteFacts:
    name = product.expected_file
    try:
        response, page = await _response(http, product, signer)
    except AccountStopped as error:
        return RemoteFacts(index=product.index, file=name, problem=str(error), account_stopped=True)
    except (ProductFailed, TryAgain) as error:
        return RemoteFacts(index=product.index, file=name, problem=str(error))
    head = response.head
    return RemoteFacts(
        index=product.index,
        file=product.file or file_name(head.disposition) or name,
        status=head.status,
        size=_size(head),
        resumable="bytes" in head.accept_ranges.lower() and strong_etag(head.etag) is not None,
        problem=page or _problem(response, product),
    )


async def _response(http: HttpClient, product: Product, signer: Authenticator) -> tuple[Response, str]:
    """Return the response about the product, and why its body cannot be the product ("" if it can, or was not read)."""
    allowed = signer.hosts or HostList((product.url.host,))
    headers = dict(product.headers)
    page = ""

    async def look(response: Response) -> None:
        nonlocal page
        if response.head.status == 200 and not parse_codings((response.head.content_encoding,)):
            page = await _objection(response, product)

    response = await probe(
        lambda method: http.open(product.url, signer=signer, allowed=allowed, headers=headers, method=method),
        is_enough=lambda response: _size(response.head) is not None and not _may_be_a_page(response.head),
        look=look,
    )
    return response, page


def _may_be_a_page(head: Head) -> bool:
    """Tell whether the type is that of login pages and error messages, so that only the first bytes can tell more."""
    media = head.content_type.partition(";")[0].strip().lower()
    return media in {"text/html", "application/xhtml+xml"} or media.endswith(("json", "xml"))


async def _objection(response: Response, product: Product) -> str:
    first = await response.peek()
    accept = next((value for key, value in product.headers if key.lower() == "accept"), None)
    name = product.file or file_name(response.head.disposition) or product.expected_file
    return (
        objection(
            name=name,
            head=first[:_LOOKED_AT],
            content_type=response.head.content_type,
            size=_size(response.head),
            requested_accept=accept,
            name_is_guess=product.file is None,
        )
        or ""
    )


def _problem(response: Response, product: Product) -> str:
    head = response.head
    words = f": {response.error_text}" if response.error_text else ""
    if (meaning := response.interpretation) is not None:
        hint = f". {meaning.hint}" if meaning.hint else ""
        return f"the archive answered {head.status} ({meaning.text}){words}{hint}"
    if head.status == 202:
        return "the archive must prepare it first (202)"
    if head.status != 200:
        return f"the archive answered {head.status}{words}"
    if product.size is not None and _size(head) not in (None, product.size):
        return f"expected {product.size} bytes, the archive has {head.content_length}"
    return ""


def _size(head: Head) -> int | None:
    """Return the bytes of the product; None if unknown, since the length of an encoded response says nothing."""
    return None if parse_codings((head.content_encoding,)) else head.content_length
