"""Who has a file name when two products want it. Pure."""

from __future__ import annotations

from bulkdl.dataclass import dataclass
from bulkdl.names import fold

__all__ = ["Claims"]


@dataclass(slots=True)
class _Name:
    claimants: tuple[int, ...] = ()
    """Products that want it and have not been refused, in order; the first holds it. Nearly always one of very many names."""
    finished: int | None = None

    @property
    def holder(self) -> int:
        return self.claimants[0] if self.finished is None else self.finished


class Claims:
    """Every name that is spoken for, under the key by which a file system might confuse two.

    The first in the manifest's order has a contested name, unless the other has finished: a finished product never
    loses its place.
    """

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    def claim(self, file: str, index: int) -> int | None:
        """Take `file` for product `index`; the index of the product that keeps it instead, or None on success."""
        key = fold(file)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = _Name()
        if name.finished is not None:
            return None if name.finished == index else name.finished
        wanted = tuple(sorted({*name.claimants, index})) if name.claimants else (index,)
        if wanted[0] != index:
            name.claimants = tuple(i for i in wanted if i != index)
            return wanted[0]
        name.claimants = wanted
        return None

    def finish(self, file: str, index: int) -> int | None:
        """Like `claim`, and for good: nobody can take the name from `index` any more."""
        other = self.claim(file, index)
        if other is None:
            self._names[fold(file)].finished = index
        return other

    def occupy(self, folder: str, index: int) -> None:
        """`folder` is in the path of product `index`: no product can have it as its own, unless one has finished."""
        name = self._names.setdefault(fold(folder), _Name())
        if name.finished is None:
            name.finished = index

    def holder(self, file: str) -> int | None:
        """The product that has the name now."""
        name = self._names.get(fold(file))
        return None if name is None else name.holder

    def release(self, file: str, index: int) -> None:
        """Give the name up: it is the next one's that claimed it and was displaced, unless `index` has finished."""
        name = self._names.get(fold(file))
        if name is None or name.finished is not None:
            return
        name.claimants = tuple(i for i in name.claimants if i != index)
        if not name.claimants:
            del self._names[fold(file)]
