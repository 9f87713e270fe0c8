"""Who has a file name when two products want it. Pure."""

from __future__ import annotations

from bulkdl.core.errors import ProductFailed
from bulkdl.core.filenames import fold
from bulkdl.core.models import FailureKind

__all__ = ["NameRegistry", "name_taken"]


class NameRegistry:
    """Every name that is spoken for, under the key by which a file system might confuse two.

    The first in the manifest's order has a contested name, unless the other has finished: a finished product never
    loses its place.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, int | tuple[int, ...]] = {}
        """Products that want it and have not been refused, in order; the first holds it. Nearly always one of very many names."""
        self._finished: dict[str, int] = {}

    def claim(self, file: str, index: int) -> int | None:
        """Take `file` for product `index`; the index of the product that keeps it instead, or None on success."""
        return self._claim(fold(file), index)

    def _claim(self, key: str, index: int) -> int | None:
        finished = self._finished.get(key)
        if finished is not None:
            return None if finished == index else finished
        before = self._wanted.get(key)
        if before is None or before == index:
            self._wanted[key] = index
            return None
        wanted = tuple(sorted({*_all(before), index}))
        self._wanted[key] = wanted if wanted[0] == index else tuple(i for i in wanted if i != index)
        return None if wanted[0] == index else wanted[0]

    def finish(self, file: str, index: int) -> int | None:
        """Like `claim`, and for good: nobody can take the name from `index` any more."""
        key = fold(file)
        other = self._claim(key, index)
        if other is None:
            self._wanted.pop(key, None)
            self._finished[key] = index
        return other

    def occupy(self, folder: str, index: int) -> None:
        """`folder` is in the path of product `index`: no product can have it as its own, unless one has finished."""
        self._finished.setdefault(fold(folder), index)

    def holder(self, file: str) -> int | None:
        """The product that has the name now."""
        key = fold(file)
        if key in self._finished:
            return self._finished[key]
        wanted = self._wanted.get(key)
        return None if wanted is None else _all(wanted)[0]

    def release(self, file: str, index: int) -> None:
        """Give the name up: it is the next one's that claimed it and was displaced, unless `index` has finished."""
        key = fold(file)
        wanted = self._wanted.get(key)
        if wanted is None or key in self._finished:
            return
        left = tuple(i for i in _all(wanted) if i != index)
        if left:
            self._wanted[key] = left
        else:
            del self._wanted[key]


def name_taken(situation: str, holder: int) -> ProductFailed:
    """Return the conflict over a name that the product with the index `holder` has.

    `situation` ends with the name or the file: the message goes on with "; it belongs to product 7 of the manifest".
    """
    return ProductFailed(
        f"{situation}; it belongs to product {holder + 1} of the manifest",
        kind=FailureKind.CONFLICT,
        hint="Give one of them a `file` of its own",
    )


def _all(wanted: int | tuple[int, ...]) -> tuple[int, ...]:
    return (wanted,) if isinstance(wanted, int) else wanted
