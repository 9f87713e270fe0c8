"""The result of a run: counts of outcomes, and the cause of its end."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from bulkdl.core.events import OutageChanged, OutagePhase, ProductFinished, RunFinished
from bulkdl.core.exit_codes import exit_code
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Outcome, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bulkdl.auth.base import Authenticator
    from bulkdl.concurrency.quota_meter import QuotaMeter
    from bulkdl.core.errors import RunStopped
    from bulkdl.core.events import Event, Hub
    from bulkdl.core.quota import QuotaUse
    from bulkdl.core.stop_request import StopReason

__all__ = ["AccountUse", "ResultCollector", "RunEnd", "RunResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUse:
    """Use of an account in a run."""

    logins: int
    refreshes: int
    stopped: str = ""
    """Reason why the account became unusable; "" if it did not."""
    is_out_of_quota: bool = False
    """True if `stopped` is about its quota, so that nothing but time can help."""
    quotas: tuple[QuotaUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Result of a run; counts are products, sizes are bytes."""

    exit_code: int
    elapsed_s: float
    total: int
    completed: int
    skipped: int
    failed: int
    pending: int
    written: int
    received: int
    resumed: int
    accounts: Mapping[str, AccountUse]
    failures: tuple[Outcome, ...]
    """In the manifest's order."""
    pending_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stopped: str = ""
    """Reason why the run ended early; "" if it did not."""
    outages: tuple[OutageChanged, ...] = ()
    """The latest event of each outage, in the order of their beginnings."""


@dataclass(slots=True)
class RunEnd:
    """Causes of a run's end, collected while it ends."""

    machine: RunStopped | None = None
    """Local problem, such as a full disk; None if there was none."""
    deadline: bool = False
    """True if the deadline or the window ended the run."""
    limit: str = ""
    """Why products were not begun (`--max-bytes`, `--until`); "" if all were."""
    signal: StopReason | None = None
    authenticators: Mapping[str | None, Authenticator] = field(default_factory=dict)
    quotas: QuotaMeter | None = None
    """The use of the accounts' quotas; None if nothing was requested."""
    unused: tuple[str, ...] = ()
    """Accounts without an authenticator, since there was nothing to do."""

    @property
    def reason(self) -> str:
        """Reason why the run ended early; "" if it did not."""
        if self.signal is not None:
            return f"interrupted by {self.signal.name}; run the same command to resume"
        if self.machine is not None:
            return str(self.machine)
        return "the deadline (--until) has passed; run the same command to resume" if self.deadline else self.limit


@dataclass(slots=True)
class ResultCollector:
    """An observer that counts outcomes; subscribe it first, so that other observers display updated counts."""

    hub: Hub
    failures: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outages: dict[tuple[str, str | None, float], OutageChanged] = field(default_factory=dict)
    """By origin, account and beginning."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, OutageChanged):
            key = event.outage.origin, event.outage.account, event.outage.began
            before = self.outages.get(key)
            waiting = max(event.waiting, before.waiting if before is not None else 0)
            self.outages[key] = replace(event, waiting=waiting)
        if not isinstance(event, ProductFinished):
            return
        outcome, counters = event.outcome, self.hub.counters
        counters.written += outcome.written
        counters.resumed += outcome.resumed
        match outcome.state:
            case State.COMPLETED:
                counters.completed += 1
            case State.SKIPPED:
                counters.skipped += 1
            case State.PENDING:
                counters.pending += 1
            case State.FAILED:
                counters.failed += 1
                self.failures.append(outcome)
        if outcome.note:
            self.notes.append(f"{outcome.file}: {outcome.note}")

    def _open_outages(self) -> Iterator[str]:
        """Yield a reason for each outage that was not over when the run ended, unless its products have failed."""
        for event in self.outages.values():
            outage = event.outage
            if outage.ended is None and event.phase is not OutagePhase.GIVEN_UP:
                where = outage.origin if outage.account is None else f"the token endpoint of account {outage.account}"
                yield f"{where} was still out of order when the run ended ({outage.reason})"

    def result(self, ending: RunEnd, *, total: int, elapsed_s: float) -> RunResult:
        """Return the result of a run of `total` products; those without an outcome are pending."""
        counters = self.hub.counters
        pending = total - counters.completed - counters.skipped - counters.failed
        ending.deadline = ending.deadline and pending > 0  # it passed when everything was done
        named = {name: authenticator for name, authenticator in ending.authenticators.items() if name is not None}
        stopped = {name: a.stopped for name, a in named.items() if a.stopped is not None}
        reached = ending.quotas.stops if ending.quotas is not None else {}
        code = exit_code(
            signal=ending.signal.value if ending.signal is not None else None,
            machine=ending.machine is not None,
            account=any(a.stopped is not None and not a.worked for a in named.values()),
            deadline=ending.deadline or bool(ending.limit) or (bool(reached) and pending > 0),
            failed=counters.failed,
            pending=pending,
        )
        stops = [f"account {name}: {stop}" for name, stop in (reached | stopped).items()]
        self.hub.emit(RunFinished(exit_code=code))
        return RunResult(
            exit_code=code,
            elapsed_s=elapsed_s,
            total=total,
            completed=counters.completed,
            skipped=counters.skipped,
            failed=counters.failed,
            pending=pending,
            written=counters.written,
            received=counters.received,
            resumed=counters.resumed,
            accounts={
                **{name: AccountUse(logins=0, refreshes=0) for name in ending.unused},
                **{name: _account_use(authenticator, ending.quotas) for name, authenticator in named.items()},
            },
            failures=tuple(sorted(self.failures, key=lambda outcome: outcome.product.index)),
            pending_reasons=(
                *stops,
                *([str(ending.machine)] if ending.machine is not None else []),
                *(self._open_outages() if pending else ()),
            ),
            notes=tuple(self.notes),
            stopped=ending.reason,
            outages=tuple(self.outages.values()),
        )


def _account_use(authenticator: Authenticator, quotas: QuotaMeter | None) -> AccountUse:
    name, refused = authenticator.name, authenticator.stopped
    stopped = refused or (quotas.stops.get(name) if quotas is not None else None)
    return AccountUse(
        logins=authenticator.logins,
        refreshes=authenticator.refreshes,
        stopped=str(stopped) if stopped is not None else "",
        is_out_of_quota=stopped is not None and refused is None,
        quotas=quotas.report().get(name, ()) if quotas is not None else (),
    )
