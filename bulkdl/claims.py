"""Who has a file name when two products want it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bulkdl.names import fold

__all__ = ["Claims"]


@dataclass(slots=True)
class _Holder:
    index: int
    finished: bool


class Claims:
    """Every name that is spoken for, under the key by which a file system might confuse two.

    The first in the manifest's order has a contested name, unless the other has finished: a finished product never
    loses its place.
    """

    def __init__(self) -> None:
        self._holders: dict[str, _Holder] = {}

    def claim(self, file: str, index: int) -> int | None:
        """Take `file` for product `index`; the index of the product that keeps it instead, or None on success."""
        key = fold(file)
        holder = self._holders.get(key)
        if holder is not None and holder.index != index and (holder.finished or holder.index < index):
            return holder.index
        self._holders[key] = _Holder(index, holder.finished if holder and holder.index == index else False)
        return None

    def finish(self, file: str, index: int) -> int | None:
        """Like `claim`, and for good: nobody can take the name from `index` any more."""
        other = self.claim(file, index)
        if other is None:
            self._holders[fold(file)].finished = True
        return other

    def holder(self, file: str) -> int | None:
        holder = self._holders.get(fold(file))
        return None if holder is None else holder.index

    def release(self, file: str, index: int) -> None:
        """Give the name up, unless it is another's by now."""
        if self.holder(file) == index:
            del self._holders[fold(file)]
