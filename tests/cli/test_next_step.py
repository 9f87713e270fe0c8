"""The next step after each end of a run."""

from __future__ import annotations

import shlex
import sys

import pytest

from bulkdl.cli.next_step import command_line, may_pass, next_step
from bulkdl.core.models import Failure, FailureKind, Outcome, Product, State
from bulkdl.core.urls import Url
from bulkdl.operations.result import AccountUse, RunResult

AGAIN = ("bulkdl", "run", "my list.yaml", "--retries", "3", "--report", "r.html", "-j", "4")
SAME = "bulkdl run 'my list.yaml' --retries 3 --report r.html -j 4"
LOGIN = "bulkdl login 'my list.yaml' own"
USELESS = "Running again will not help"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell's quotes")


def failed(kind: str, reason: str = "") -> Outcome:
    product = Product(index=0, url=Url("https://archive.example.org/a"), file="a")
    return Outcome(
        product=product,
        state=State.FAILED,
        file="a",
        failure=Failure(kind=FailureKind(kind), reason=reason, attempts=1),
    )


def step(code: int, *failures: Outcome, pending: int = 0, stopped: bool = False) -> str:
    use = AccountUse(logins=0, refreshes=0, stopped="wrong password" if stopped else "")
    result = RunResult(
        exit_code=code,
        elapsed_s=1.0,
        total=9,
        completed=0,
        skipped=0,
        failed=len(failures),
        pending=pending,
        written=0,
        received=0,
        resumed=0,
        accounts={"own": use},
        failures=failures,
    )
    return next_step(result, manifest="my list.yaml", again=AGAIN)


GONE, SERVER, NETWORK = failed("http", "x answered 404"), failed("http", "x answered 503: busy"), failed("network")


@pytest.mark.parametrize(
    ("text", "said", "unsaid"),
    [
        (step(0), "", SAME),
        (step(1, GONE), USELESS, SAME),
        (step(1, GONE, failed("auth"), failed("checksum"), failed("conflict")), USELESS, SAME),
        (step(1, SERVER), SAME, USELESS),
        (step(1, NETWORK), SAME, USELESS),
        (step(1, failed("offline")), SAME, USELESS),
        (step(1, GONE, SERVER), SAME, "with the failures"),
        (step(1, GONE, SERVER), "with 1 of the failures", LOGIN),
        (step(1, GONE, pending=3), SAME, LOGIN),
        (step(3, pending=3, stopped=True), LOGIN, USELESS),
        (step(3, pending=3, stopped=True), f"Then run the same command again to continue:\n  {SAME}", USELESS),
        (step(4, pending=3), "Mend first what is in the way", USELESS),
        (step(5, pending=3), SAME, USELESS),
        (step(130, pending=3), SAME, USELESS),
    ],
)
def test_each_end_has_its_step(text, said, unsaid):
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize(
    ("kind", "reason", "expected"),
    [
        ("http", "a answered 404: gone", False),
        ("http", "a answered 410", False),
        ("http", "a answered 429: slow down", True),
        ("http", "a answered 408", True),
        ("http", "a answered 500: Quota exceeded for today; no progress in 10 attempts", True),
        ("http", "a redirects more than 15 times", True),
        ("network", "no answer", True),
        ("content", "an HTML page", True),
        ("size", "expected 5 bytes", False),
        ("storage", "", False),
    ],
)
def test_which_failures_may_pass(kind, reason, expected):
    assert may_pass(failed(kind, reason)) is expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bulkdl", "run", "a b.yaml", "--select", "*.zip"], "bulkdl run 'a b.yaml' --select '*.zip'"),
        (["bulkdl", "run", "it's"], shlex.join(["bulkdl", "run", "it's"])),
        (["bulkdl", "run", "m", "--notify", "https://hooks.example.org/T0/secret"], "bulkdl run m --notify URL"),
        (["bulkdl", "run", "m", "--notify=https://x.org/secret"], "bulkdl run m --notify=URL"),
        (["bulkdl", "run", "https://x.org/m?sig=abc"], "bulkdl run 'https://x.org/m?***'"),
        (["bulkdl", "run", "a\x1b[31m"], "bulkdl run 'a\\x1b[31m'"),
    ],
)
def test_a_command_is_quoted_for_the_shell_and_shows_no_secret(words, expected):
    assert command_line(words) == expected
