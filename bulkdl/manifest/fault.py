"""The fault that ends the reading of a manifest."""

from __future__ import annotations

from bulkdl.core.errors import Problem

__all__ = ["Fault"]


class Fault(Exception):  # noqa: N818 - it carries a Problem; whoever reads ends with it
    """The rest of the file cannot be read."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, column, message)
