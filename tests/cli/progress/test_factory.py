"""The progress displays: their text and its timing, with an injected clock."""

from __future__ import annotations

import asyncio
import io
import json
import stat
import sys

import pytest

from bulkdl.cli.progress.factory import Mode, open_progress, pick_mode
from bulkdl.cli.progress.observers import LogFile, PlainProgress, Screen
from bulkdl.cli.progress.sampler import RateWindow, Sampler
from bulkdl.core.errors import UsageError
from bulkdl.core.events import (
    AccountAction,
    AccountEvent,
    Counters,
    Flight,
    Hub,
    Level,
    ProductFinished,
    Retrying,
    RunFinished,
    RunStarted,
)
from bulkdl.core.models import Failure, FailureKind, Outcome, Product, State
from bulkdl.core.urls import Url

MIB = 1024 * 1024
START = RunStarted(destination="products", total=4, todo=4, bytes_todo=100 * MIB)
PRODUCT = Product(index=0, url=Url("https://archive.example.org/a.zip"), file="a.zip")
RETRY = Retrying(product=PRODUCT, file="a.zip", reason="answer 503", wait_s=2, attempt=1)
FAILED = ProductFinished(
    outcome=Outcome(
        product=PRODUCT,
        state=State.FAILED,
        file="a.zip",
        failure=Failure(kind=FailureKind.HTTP, reason="404 Not Found", attempts=1),
    )
)


class Clock:
    """A clock that a test advances; `advance` wakes the sleepers that are due."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        await run_tasks()
        while due := [s for s in self._sleepers if s[0] <= end]:
            self.now, future = min(due, key=lambda s: s[0])
            self._sleepers.remove((self.now, future))
            if not future.done():
                future.set_result(None)
            await run_tasks()
        self.now = end


async def run_tasks() -> None:
    """Let every runnable task run."""
    for _ in range(5):
        await asyncio.sleep(0)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def printed_lines(stream: io.StringIO) -> list[str]:
    """Return the printed lines without their time."""
    return [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("requested", "terminal", "term", "verbosity", "picked"),
    [
        ("auto", True, "xterm-256color", 0, "bar"),
        ("auto", True, "", 0, "bar"),
        ("auto", True, "dumb", 0, "plain"),
        ("auto", False, "xterm", 0, "plain"),
        ("auto", True, "xterm", -1, "plain"),
        ("bar", True, "xterm", -1, "bar"),
        ("bar", False, "xterm", 0, "plain"),
        ("bar", True, "dumb", 0, "plain"),
        ("plain", True, "xterm", 0, "plain"),
        ("json", True, "xterm", 0, "json"),
        ("none", True, "xterm", 0, "none"),
    ],
)
def test_the_live_view_is_only_for_a_terminal_that_can_move_its_cursor(requested, terminal, term, verbosity, picked):
    assert pick_mode(Mode(requested), terminal=terminal, environ={"TERM": term}, verbosity=verbosity) is Mode(picked)


def test_the_rate_covers_the_window_and_not_the_whole_run():
    window = RateWindow(10)
    assert window.add(0, 0) == 0
    assert window.add(10, 1000) == 100
    for second in range(11, 40):
        rate = window.add(second, 1000)
    assert rate == 0


@pytest.mark.parametrize(
    ("counters", "fraction"),
    [
        (Counters(received=25, bytes_todo=100), 0.25),
        (Counters(received=25), 0.0),
        (Counters(completed=1, skipped=1), 0.5),
        (Counters(completed=2, failed=2, bytes_todo=5), 1.0),
        (Counters(completed=1, received=9, bytes_todo=5), 0.25),
        (Counters(received=25, flights={"a": Flight(file="a", total=175, have=100)}), 0.25),
    ],
)
def test_the_fraction_is_of_bytes_where_they_are_known_and_else_of_products(counters, fraction):
    sampler = Sampler(counters)
    sampler.started(START)
    assert sampler.sample(0).fraction == fraction


async def test_plain_progress_says_one_line_every_half_minute():
    hub, clock, stream = Hub(), Clock(), io.StringIO()
    async with open_progress(Mode.PLAIN, hub=hub, clock=clock, stream=stream, environ={}):
        hub.emit(START)
        hub.counters.bytes_todo = 100 * MIB
        await clock.advance(29)
        assert printed_lines(stream) == ["4 of 4 products to download, 100 MiB, into products"]
        hub.counters.received, hub.counters.completed = 30 * MIB, 1
        hub.counters.flights["b.zip"] = Flight(file="b.zip")
        await clock.advance(1)
        assert printed_lines(stream)[1:] == [
            "30%, 1 of 4 products done, 1 in flight, 30.0 MiB of 100 MiB, 1.0 MiB/s, 1m10s left"
        ]
        await clock.advance(300)
        assert len(printed_lines(stream)) == 12


async def test_plain_progress_names_each_failure_at_once_and_sums_up_retries():
    hub, clock, stream = Hub(), Clock(), io.StringIO()
    async with open_progress(Mode.PLAIN, hub=hub, clock=clock, stream=stream, environ={}):
        hub.emit(START)
        for _ in range(50):
            hub.emit(RETRY)
        hub.emit(FAILED)
        hub.emit(AccountEvent(account="own", action=AccountAction.STOPPED, detail="wrong password"))
        assert printed_lines(stream)[1:] == [
            "a.zip: FAILED (http): 404 Not Found",
            "account own: STOPPED, its products stay pending: wrong password",
        ]
        await clock.advance(60)
        assert printed_lines(stream)[3].endswith("; 50 retries since the last line (latest: a.zip: answer 503)")
        assert "retr" not in printed_lines(stream)[4]


async def test_plain_progress_is_silent_before_the_run_and_after_it():
    hub, clock, stream = Hub(), Clock(), io.StringIO()
    async with open_progress(Mode.PLAIN, hub=hub, clock=clock, stream=stream, environ={}):
        await clock.advance(90)
        assert stream.getvalue() == ""
        hub.emit(START)
        hub.emit(RunFinished(exit_code=0))
        await clock.advance(90)
    assert len(printed_lines(stream)) == 1


async def test_quiet_progress_says_failures_only():
    hub, clock, stream = Hub(), Clock(), io.StringIO()
    async with open_progress(Mode.AUTO, hub=hub, clock=clock, stream=stream, environ={}, verbosity=-1):
        hub.emit(START)
        hub.emit(FAILED)
        await clock.advance(90)
    assert printed_lines(stream) == ["a.zip: FAILED (http): 404 Not Found"]


async def test_json_progress_is_one_object_a_line_with_a_sample_every_second():
    hub, clock, stream = Hub(), Clock(), io.StringIO()
    async with open_progress(Mode.JSON, hub=hub, clock=clock, stream=stream, environ={}):
        hub.emit(START)
        hub.counters.flights["b.zip"] = Flight(file="b.zip", total=5, have=2, connections=1, phase="receiving")
        await clock.advance(2)
        hub.emit(FAILED)
    objects = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [o["event"] for o in objects] == ["run_started", "sample", "sample", "product_finished"]
    assert objects[1]["in_flight"] == [{"file": "b.zip", "have": 2, "total": 5, "connections": 1, "phase": "receiving"}]
    assert objects[3]["kind"] == "http"
    assert [o["time"] for o in objects] == [1_700_001_000, 1_700_001_001, 1_700_001_002, 1_700_001_002]


async def test_no_progress_says_nothing():
    hub, stream = Hub(), io.StringIO()
    async with open_progress(Mode.NONE, hub=hub, clock=Clock(), stream=stream, environ={}):
        hub.emit(START)
        hub.emit(FAILED)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("mode", list(Mode))
async def test_an_error_inside_leaves_the_progress_as_itself(mode):
    with pytest.raises(UsageError, match="no such thing"):
        async with open_progress(mode, hub=Hub(), clock=Clock(), stream=Terminal(), environ={}):
            raise UsageError("no such thing")


async def test_a_cancelled_run_ends_the_progress_and_stays_cancelled():
    entered = asyncio.Event()

    async def run() -> None:
        async with open_progress(Mode.PLAIN, hub=Hub(), clock=Clock(), stream=io.StringIO(), environ={}):
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await entered.wait()
        task.cancel()
    assert task.cancelled()


async def test_the_live_view_shows_products_in_flight_and_failures_above_them():
    hub, clock, stream = Hub(), Clock(), Terminal()
    async with open_progress(Mode.BAR, hub=hub, clock=clock, stream=stream, environ={"TERM": "xterm"}) as progress:
        hub.emit(START)
        hub.counters.accounts["own"] = "token valid 240 s"
        hub.counters.flights["b.zip"] = Flight(file="b.zip", total=100, have=50, connections=2, phase="receiving")
        await clock.advance(0.2)
        hub.emit(FAILED)
        await clock.advance(0.2)
        with progress.suspended():
            before = stream.tell()
            await clock.advance(1)
            assert stream.tell() == before
    text = stream.getvalue()
    for expected in ("b.zip", "50%", "receiving", "own: token valid 240 s", "FAILED (http): 404 Not Found"):
        assert expected in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is printed_lines again"


async def test_nothing_is_sampled_before_the_run_has_started():
    hub, clock, stream = Hub(), Clock(), io.StringIO()
    async with open_progress(Mode.JSON, hub=hub, clock=clock, stream=stream, environ={}):
        await clock.advance(3)
        assert stream.getvalue() == ""
        hub.emit(START)
        await clock.advance(1)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["run_started", "sample"]


def test_a_closed_pipe_does_not_end_the_run():
    class ClosedPipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = PlainProgress(counters=Counters(), clock=Clock(), screen=Screen(ClosedPipe()))
    progress.observe(START)
    progress.tick()


def test_the_log_file_has_every_event_with_its_time_is_appended_and_private(tmp_path):
    path = tmp_path / "run.log"
    for level in (Level.DEBUG, Level.WARNING):
        with LogFile(path, clock=Clock()) as log:
            hub = Hub(log.observe)
            hub.note(level, "the clock is off")
            hub.emit(RETRY)
            log.write("error", "one\ntwo")
    assert path.read_text().splitlines()[:4] == [
        "2023-11-14T22:30:00.000Z DEBUG   the clock is off",
        "2023-11-14T22:30:00.000Z WARNING a.zip: answer 503. Trying again in 2s.",
        "2023-11-14T22:30:00.000Z ERROR   one",
        "    two",
    ]
    assert len(path.read_text().splitlines()) == 8
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_file_that_cannot_be_opened_is_a_usage_error_that_names_it(tmp_path):
    with pytest.raises(UsageError, match=r"--log-file .*missing.run\.log cannot be written"):
        LogFile(tmp_path / "missing" / "run.log", clock=Clock())
