"""Length of tests: a short form in the README's command, a long one with `BULKDL_TESTS=thorough`, as `.ci/run` has it.

Both forms check the same; the long one has more rounds, examples or states. A test that has both is marked `thorough`.
"""

from __future__ import annotations

import os
from typing import TypeVar

__all__ = ["THOROUGH", "effort"]

_T = TypeVar("_T")
_WISH = os.environ.get("BULKDL_TESTS", "")
if _WISH not in {"", "thorough"}:
    raise ValueError(f"BULKDL_TESTS is '{_WISH}'; it may be 'thorough' or absent")
THOROUGH = _WISH == "thorough"


def effort(short: _T, long: _T) -> _T:
    """`long` in the long form."""
    return long if THOROUGH else short
