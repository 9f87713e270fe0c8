"""Priority of errors in a task group, and the text of errors and problems."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from bulkdl.core.errors import (
    AccountStopped,
    BulkdlError,
    ManifestError,
    Problem,
    ProductFailed,
    RunStopped,
    StorageStopped,
    TryAgain,
    first_error,
)
from bulkdl.core.models import FailureKind

AGAIN = TryAgain("a drop", kind=FailureKind.NETWORK)
FAILED = ProductFailed("a 404", kind=FailureKind.HTTP)
ACCOUNT = AccountStopped("a wrong password", account="own")
FULL = StorageStopped("no room", full=True)
DEFECT = KeyError("a defect")

WIDEST_FIRST = [DEFECT, FULL, ACCOUNT, FAILED, AGAIN]


def raised(*errors: Exception) -> BaseException:
    with pytest.raises(BaseException) as found, first_error():
        raise BaseExceptionGroup("several", errors)
    return found.value


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_error_with_the_widest_scope_is_raised_in_any_order(count):
    for errors in permutations(WIDEST_FIRST, count):
        assert raised(*errors) is min(errors, key=WIDEST_FIRST.index)


def test_groups_in_groups_are_searched_to_the_bottom():
    nested = BaseExceptionGroup("a", [AGAIN, BaseExceptionGroup("b", [BaseExceptionGroup("c", [FULL]), FAILED])])
    assert raised(AGAIN, nested) is FULL


def test_of_two_errors_with_one_scope_the_first_is_raised():
    other = TryAgain("another drop", kind=FailureKind.NETWORK)
    assert raised(AGAIN, other) is AGAIN
    assert raised(other, AGAIN) is other


def test_an_error_keeps_the_cause_that_it_was_raised_from():
    cause = OSError(28, "No space left on device")
    with pytest.raises(StorageStopped) as full:
        raise StorageStopped("no room", full=True) from cause
    assert raised(AGAIN, full.value).__cause__ is cause


def test_the_group_is_not_shown_with_the_error():
    assert raised(AGAIN).__suppress_context__


def test_a_lone_error_and_success_pass_unchanged():
    with first_error():
        pass
    with pytest.raises(TryAgain) as found, first_error():
        raise AGAIN
    assert found.value is AGAIN


async def test_first_error_unwraps_the_error_of_a_task_group():
    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(AccountStopped), first_error():  # noqa: PT012
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(AGAIN))
            group.create_task(fail(ACCOUNT))


async def test_a_cancellation_stays_a_cancellation():
    async def work() -> None:
        with first_error():
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("error", [BulkdlError("It broke", hint="Mend it"), FAILED, ACCOUNT, FULL, AGAIN])
def test_the_text_of_an_error_is_reason_and_hint(error):
    assert str(error) == (f"{error.reason}. {error.hint}" if error.hint else error.reason)


def test_a_local_problem_ends_the_run_with_4():
    assert RunStopped.exit_code == 4
    assert isinstance(FULL, RunStopped)


def test_problems_of_a_manifest_are_listed_in_the_order_of_their_positions():
    error = ManifestError(
        "m.yaml", (Problem(9, 1, "c"), Problem(2, 10, "b"), Problem(2, 3, "a"), Problem(0, 0, "whole"))
    )
    assert str(error).splitlines() == ["m.yaml: whole", "m.yaml:2:3: a", "m.yaml:2:10: b", "m.yaml:9:1: c"]
