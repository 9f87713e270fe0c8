"""Stored results, one JSON object per line, so that an interrupted series of trials can be resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.hostile.trial import Found, Result, Trial

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Kept"]


@dataclass(slots=True)
class Kept:
    """If `path` is None, nothing is stored."""

    path: Path | None

    def of(self, trials: Iterable[Trial]) -> dict[Trial, Result]:
        """Return the stored results of `trials` with the same version of their tool."""
        if self.path is None or not self.path.exists():
            return {}
        rows = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
        by_name = {(row["trial"], row["version"]): row for row in rows}
        found = ((trial, by_name.get((str(trial), trial.tool.version))) for trial in trials)
        return {trial: _read(trial, row) for trial, row in found if row is not None}

    def add(self, result: Result) -> None:
        if self.path is None:
            return
        row = {
            "trial": str(result.trial),
            "version": result.trial.tool.version,
            "found": result.found.value,
            "what": result.what,
            "code": result.code,
            "marked": result.marked,
            "crashed": result.crashed,
            "resumed": result.resumed,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _read(trial: Trial, row: dict[str, object]) -> Result:
    code = row["code"]
    return Result(
        trial,
        Found(row["found"]),
        str(row["what"]),
        int(str(code)) if code is not None else None,
        bool(row["marked"]),
        bool(row.get("crashed")),
        bool(row["resumed"]),
    )
