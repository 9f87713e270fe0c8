"""The gate: which product may go to its origin now, and what the others wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.models import Trouble
from bulkdl.core.urls import Url
from bulkdl.scheduler.gate import Gate, account_key
from tests.contexts import URL, context_at, task_for

if TYPE_CHECKING:
    from pathlib import Path

    from bulkdl.transfer.context import RunContext

MIRROR = Url("https://mirror.example.org/x.bin")


class Signer:
    """An account that waits for its token endpoint, or does not."""

    waiting = False


def break_down(context: RunContext, url: Url = URL, *, wait: float | None = None) -> None:
    context.outages.fault(url.origin, "x", trouble=Trouble.STATUS, reason="answered 500", since=0.0, wait=wait)


async def test_a_product_waits_for_its_origin_until_the_next_probe_and_then_asks_alone(tmp_path: Path):
    async with context_at(tmp_path) as context:
        gate, task = Gate(context), task_for(context)
        assert (gate.closed_key_of(task), gate.is_plain(task.product)) == (None, True)
        break_down(context)
        assert gate.closed_key(task.product) == gate.closed_key_of(task) == URL.origin
        assert not gate.is_plain(task.product)
        clock: Any = context.clock
        await clock.advance(gate.opens_in(URL.origin))
        assert gate.closed_key_of(task) is None
        gate.enter(task)
        assert context.outages.is_probe(URL.origin, task.product.id)
        assert gate.closed_key(task.product) == URL.origin
        gate.leave(task)
        assert (task.entered, gate.opens_in(URL.origin)) == (None, 0.0)
        gate.leave(task)


async def test_a_product_turns_to_a_mirror_that_works_but_not_to_one_that_failed(tmp_path: Path):
    async with context_at(tmp_path) as context:
        gate, task = Gate(context), task_for(context, mirrors=(MIRROR,))
        break_down(context)
        assert (gate.closed_key_of(task), task.source) == (None, MIRROR)
        task.source_index, task.dead_sources = 0, {1}
        assert (gate.closed_key_of(task), task.source) == (URL.origin, URL)
        task.dead_sources.clear()
        break_down(context, MIRROR)
        assert gate.closed_key_of(task) == URL.origin


async def test_a_body_in_memory_or_a_renamed_file_waits_for_nothing(tmp_path: Path):
    async with context_at(tmp_path) as context:
        gate, task = Gate(context), task_for(context)
        break_down(context)
        task.finalize_error = OSError()  # type: ignore[assignment]
        assert gate.closed_key_of(task) is None
        gate.enter(task)
        assert task.entered is None


async def test_a_product_waits_for_its_account(tmp_path: Path):
    async with context_at(tmp_path) as context:
        signer: Any = Signer()
        context.signers["jo"] = signer
        gate, task = Gate(context), task_for(context, account="jo")
        assert gate.closed_key_of(task) is None
        signer.waiting = True
        key = account_key("jo")
        assert gate.closed_key(task.product) == gate.closed_key_of(task) == key
        assert not gate.is_plain(task.product)
        assert gate.opens_in(key) == pytest.approx(60)
        signer.waiting = False
        assert (gate.opens_in(key), gate.closed_key(task.product)) == (0.0, None)
