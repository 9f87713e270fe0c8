"""Every hostile response again, pipelined among small products that the archive serves correctly on one connection.

Many products share one run: whatever one of them does, the others end as they would alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.http.lightweight import pipelining_policy
from tests.harness import Place, body_of
from tests.hostile import test_answers, test_bodies
from tests.hostile.scenes import BODY, DOSES, MODES, Case, Turn
from tests.servers import RawRequest, RawServer, Wire, head

if TYPE_CHECKING:
    from pathlib import Path

ALIKE = {name for name in test_answers.CASES if "Retry-After: " in name and not name.endswith(": 7")}
"""Cases that differ from others only in their waits."""
COOKIES = [name for name in test_answers.CASES if "cookie" in name]
"""Cases that end pipelining for the whole run."""
NEW = {"new", "new, checksum"}
"""Modes of a product that may be pipelined: its size is small or unknown."""
CASES = {
    name: case
    for name, case in (test_answers.CASES | test_bodies.CASES).items()
    if NEW & {*case.only} and name not in ALIKE
}
SLOW = [name for name, case in CASES.items() if case.settings]
"""Slow cases."""
MANY = [name for name in CASES if name not in {*SLOW, *COOKIES}]
CROWDS = [tuple(MANY[at : at + 16]) for at in range(0, len(MANY), 16)]
BETWEEN = 3


@dataclass(slots=True)
class Crowd:
    """Responder for `/DOSE-CASE/MODE` by its `Case`, and for `/plain-N` with a correct response."""

    cases: list[Case]
    turns: dict[str, int] = field(default_factory=dict)
    ahead: set[str] = field(default_factory=set)
    """Paths requested with other requests already waiting behind them."""

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        kind, _, number = request.path.split("/")[1].partition("-")
        if wire.reader._buffer:  # type: ignore[attr-defined]  # only the buffer shows pipelined requests
            self.ahead.add(request.path)
        if kind == "plain":
            body = plain(int(number))
            wire.keep()
            await wire.send(head(200, ("Content-Length", len(body))) + body)
            return
        case, turn = self.cases[int(number)], Turn(request, wire, MODES[mode_of(self.cases[int(number)])])
        count = self.turns[request.path] = self.turns.get(request.path, 0) + 1
        if kind == "once" and count > 1 and request.path.count("/") == 2:
            await turn.orderly()
        else:
            await case.answer(turn)


def plain(number: int) -> bytes:
    return body_of(100 + number, number)


def mode_of(case: Case) -> str:
    return "new" if "new" in case.only else "new, checksum"


@pytest.fixture(autouse=True)
def _keen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Re-enable pipelining at once after every violation."""
    monkeypatch.setattr(pipelining_policy, "VIOLATION_FACTOR", 1)


@pytest.mark.parametrize("names", [*CROWDS, tuple(SLOW), tuple(COOKIES)], ids=lambda names: f"{names[0]} and so on")
async def test_among_pipelined_requests_each_product_is_right_or_a_named_failure_after(
    names: tuple[str, ...], tmp_path: Path
):
    cases = [CASES[name] for name in names]
    place, crowd = Place(tmp_path, workers=2), Crowd(cases)
    place.environ |= {"BULKDL_ASK_AHEAD": "1", "BULKDL_FAST_LANE": "0"}
    hostile = [(f"{dose}-{number}", dose, case) for number, case in enumerate(cases) for dose in DOSES]
    async with RawServer(crowd) as server:
        wishes: list[dict[str, Any]] = []
        for path, _, case in hostile:
            count = len(wishes)
            wishes += [{"url": server.url(f"/plain-{n}"), "file": f"plain-{n}"} for n in range(count, count + BETWEEN)]
            wishes.append({"url": server.url(f"/{path}/0"), "file": path, **MODES[mode_of(case)].product})
        timeout = min(float(case.settings.get("timeout", 10)) for case in cases)
        done = await place.run(*wishes, timeout=timeout)
    assert len(done.outcomes) == len(wishes)
    for file, outcome in done.outcomes.items():
        found = place.file(file)
        assert (found is not None) == (outcome.failure is None), file
        if file.startswith("plain-"):
            assert found == plain(int(file[6:])), file
        else:
            assert found in (None, BODY), file
    others = {}
    for path, dose, case in hostile:
        failure = done.outcomes[path].failure
        end = "right" if failure is None else failure.kind.value
        expected = case.expected()[f"{dose}, {mode_of(case)}"]
        # A response that comes only once meets the pipelined request, so it does not count.
        if end not in ({expected, "right"} if dose == "once" else {expected}):
            others[f"{dose}: {names[int(path.rpartition('-')[2])]}"] = (end, expected, str(failure))
    assert not others
    # A silence makes the archive suspect, and nothing is requested ahead while it is: whether any of these was is chance.
    if names[0] not in COOKIES and names[0] not in SLOW:
        assert crowd.ahead & {f"/{path}/0" for path, _, _ in hostile}
