"""Ask a server about a product without downloading its body.

HEAD is optional in practice. Some servers refuse it (404, 405, 501 and others), and archives that build a zip while they send
it know no length beforehand. A GET that is closed before its body is read then gives the head of the representation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.errors import TryAgain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from bulkdl.http.response import Response

__all__ = ["probe"]

_FINAL_STATUSES = frozenset({202, 401, 410, 429, 451})
"""Statuses that do not depend on the method: a GET would get the same answer, and would start a preparation twice (202)."""


async def probe(
    open_: Callable[[str], AbstractAsyncContextManager[Response]],
    *,
    is_enough: Callable[[Response], bool] = lambda _response: True,
    look: Callable[[Response], Awaitable[None]] | None = None,
) -> Response:
    """Return the closed response to a HEAD, or to a GET if the HEAD does not tell enough. Its body is not read.

    `open_` sends a request with the given method. `is_enough` says if a 200 to the HEAD holds what the caller needs.
    `look` may read the first bytes of the response to a GET.
    """
    try:
        async with open_("HEAD") as response:
            status = response.head.status
    except TryAgain:
        status = 0  # some servers break the connection of a HEAD; the GET shows whether they are there
    if status in _FINAL_STATUSES or (status == 200 and is_enough(response)):
        return response
    async with open_("GET") as response:
        try:
            if look is not None:
                await look(response)
        finally:
            response.close()
    return response
