"""A product that came before is asked for: what its answer says of the origin, and how often it is asked."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.errors import AccountStopped, AccountWaiting, ProductFailed, TryAgain
from bulkdl.core.models import FailureKind, Product, Trouble
from bulkdl.core.urls import Url
from bulkdl.transfer.canary import Canaries
from tests.contexts import context_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

ORIGIN, OTHER = Url("https://archive.example.org/").origin, Url("https://other.example.org/").origin
BODY, PAGE = b"\x89product" * 64, b"<!DOCTYPE html><html><title>Down</title></html>"


@dataclass(frozen=True)
class Reply:
    status: int = 206
    body: bytes = BODY
    content_type: str = "application/octet-stream"

    @property
    def head(self) -> Any:
        return SimpleNamespace(status=self.status, content_type=self.content_type)

    async def peek(self) -> bytes:
        return self.body

    def close(self) -> None:
        return


class Asking:
    """Stands in for a run: `answers` by path, the last one for all others; `asked` has the paths in order."""

    def __init__(self, context: RunContext, *answers: Reply | Exception) -> None:
        self.clock, self.connections = context.clock, context.connections
        self.settings = replace(context.settings, timeout=10.0)
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self._answers = answers

    @asynccontextmanager
    async def open(self, task: DownloadTask, *, headers: Mapping[str, str]) -> AsyncIterator[Any]:
        answer = self._answers[min(len(self.asked), len(self._answers) - 1)]
        self.asked.append(task.source.path)
        self.headers.append(headers)
        if isinstance(answer, Exception):
            raise answer
        yield answer


def product(number: int, origin: str = ORIGIN) -> Product:
    return Product(index=number, url=Url(f"{origin}/{number}"))


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[RunContext]:
    async with context_at(tmp_path) as running:
        yield running


RESULTS: dict[str, tuple[Reply | Exception, bool | None]] = {
    "a range": (Reply(), True),
    "the whole": (Reply(200), True),
    "404": (Reply(404), False),
    "403": (Reply(403), False),
    "503": (Reply(503), False),
    "416": (Reply(416), False),
    "a page": (Reply(200, PAGE, "text/html"), False),
    "no connection": (TryAgain("refused", kind=FailureKind.NETWORK), False),
    "a time-out": (TimeoutError(), False),
    "a redirect without end": (ProductFailed("redirects", kind=FailureKind.HTTP), False),
    "an account that waits": (AccountWaiting("waits", account="jo"), None),
    "an account that stopped": (AccountStopped("stopped", account="jo"), None),
}


@pytest.mark.parametrize(("answer", "comes"), RESULTS.values(), ids=RESULTS)
async def test_the_answer_says_if_the_origin_is_in_order(context: RunContext, answer: Reply | Exception, comes: object):
    canaries, asking = Canaries(), Asking(context, answer)
    canaries.add(product(1))
    assert await canaries.still_come(asking, ORIGIN) is comes
    assert asking.headers == [{"Range": "bytes=0-511"}]


async def test_nothing_is_asked_where_nothing_came(context: RunContext):
    canaries, asking = Canaries(), Asking(context, Reply())
    canaries.add(product(1, OTHER))
    canaries.add(product(2), "http://mirror.example.org:80")
    assert canaries.knows(OTHER)
    assert not canaries.knows(ORIGIN)
    assert not canaries.knows("http://mirror.example.org:80")
    assert await canaries.still_come(asking, ORIGIN) is None
    assert asking.asked == []


async def test_a_withdrawn_product_does_not_speak_for_the_origin(context: RunContext):
    canaries, asking = Canaries(), Asking(context, Reply(404), Reply())
    for number in range(5):
        canaries.add(product(number))
        canaries.add(product(number))
    assert await canaries.still_come(asking, ORIGIN) is True
    assert asking.asked == ["/4", "/3"]


@pytest.mark.parametrize(("most", "asked"), [(1, ["/4"]), (3, ["/4", "/3", "/2"])])
async def test_so_many_are_asked_at_most_the_latest_first(context: RunContext, most: int, asked: list[str]):
    canaries, asking = Canaries(), Asking(context, Reply(404))
    for number in range(5):
        canaries.add(product(number))
    assert await canaries.still_come(asking, ORIGIN, most=most) is False
    assert asking.asked == asked


async def test_many_refusals_at_once_cause_one_check(context: RunContext):
    canaries, asking = Canaries(), Asking(context, Reply())
    canaries.add(product(1))
    clock: Any = context.clock
    for seconds in (0, 4, 2):
        await clock.advance(seconds)
        assert await canaries.still_come(asking, ORIGIN) is True
    assert len(asking.asked) == 2


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (Reply(status=503), Trouble.STATUS),
        (Reply(status=403), Trouble.DENIED),
        (Reply(body=PAGE), Trouble.DENIED),
        (ProductFailed("gone", kind=FailureKind.HTTP), Trouble.DENIED),
        (TryAgain("odd", kind=FailureKind.HTTP), Trouble.DENIED),
        (TryAgain("no answer", kind=FailureKind.NETWORK, trouble=Trouble.NAME), Trouble.NAME),
        (TryAgain("no answer", kind=FailureKind.NETWORK), Trouble.BROKEN),
        (TimeoutError(), Trouble.TIMEOUT),
    ],
)
async def test_what_a_product_met_that_came_before_is_the_trouble_of_its_origin(
    answer: Reply | Exception, trouble: Trouble, tmp_path: Path
):
    async with context_at(tmp_path) as context:
        canaries, asking = Canaries(), Asking(context, answer)
        canaries.add(Product(index=0, url=Url(f"{ORIGIN}/a"), file="a.bin"))
        run: Any = asking
        assert await canaries.still_come(run, ORIGIN) is False
        assert canaries.fault(ORIGIN)[0] is trouble
