"""Assignment of file names to products when two want the same name. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.errors import ProductFailed
from bulkdl.core.filenames import fold
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NameRegistry", "name_taken"]


class NameRegistry:
    """File names that products have reserved, compared as case-insensitive file systems do.

    If two products want one name, the first in the manifest gets it, unless the other one has finished: a finished
    product never loses its name. The other product is a conflict.
    """

    def __init__(self, real_folder: Callable[[str], str] = str) -> None:
        """`real_folder` returns the folder to which a folder leads, where links make two folders one."""
        self._real_folder = real_folder
        self._reserved: dict[str, int | tuple[int, ...]] = {}
        """Products that reserved each name, in order; the first holds it.

        A bare int saves memory: nearly all of very many names have only one.
        """
        self._confirmed: dict[str, int] = {}

    def _key(self, file: str) -> str:
        """Return a key that is equal for two names of one file."""
        folder, slash, name = file.rpartition("/")
        if slash and (real := self._real_folder(folder)) != folder:
            file = f"{real}/{name}"
        return fold(file)

    def reserve(self, file: str, index: int) -> int | None:
        """Reserve `file` for product `index`; return None, or the index of the product that holds it instead."""
        return self._reserve(self._key(file), index)

    def _reserve(self, key: str, index: int) -> int | None:
        confirmed = self._confirmed.get(key)
        if confirmed is not None:
            return None if confirmed == index else confirmed
        before = self._reserved.get(key)
        if before is None or before == index:
            self._reserved[key] = index
            return None
        reserved = tuple(sorted({*_as_tuple(before), index}))
        self._reserved[key] = reserved if reserved[0] == index else tuple(i for i in reserved if i != index)
        return None if reserved[0] == index else reserved[0]

    def confirm(self, file: str, index: int) -> int | None:
        """Reserve `file` permanently for a finished product; return as `reserve` does."""
        key = self._key(file)
        other = self._reserve(key, index)
        if other is None:
            self._reserved.pop(key, None)
            self._confirmed[key] = index
        return other

    def occupy(self, folder: str, index: int) -> None:
        """Block `folder`, which is in the path of product `index`, as a name for any product that has not finished."""
        self._confirmed.setdefault(self._key(folder), index)

    def holder(self, file: str) -> int | None:
        """Return the index of the product that holds the name; None if it is free."""
        key = self._key(file)
        if key in self._confirmed:
            return self._confirmed[key]
        reserved = self._reserved.get(key)
        return None if reserved is None else _as_tuple(reserved)[0]

    def release(self, file: str, index: int) -> None:
        """Release the name for the next product that reserved it and was displaced; no effect once confirmed."""
        key = self._key(file)
        reserved = self._reserved.get(key)
        if reserved is None or key in self._confirmed:
            return
        left = tuple(i for i in _as_tuple(reserved) if i != index)
        if left:
            self._reserved[key] = left
        else:
            del self._reserved[key]


def name_taken(situation: str, holder: int) -> ProductFailed:
    """Return the conflict over a name that the product with the index `holder` has.

    `situation` ends with the name or the file; the message continues "; it belongs to product 7 of the manifest".
    """
    return ProductFailed(
        f"{situation}; it belongs to product {holder + 1} of the manifest",
        kind=FailureKind.CONFLICT,
        hint="Give one of them a `file` of its own",
    )


def _as_tuple(reserved: int | tuple[int, ...]) -> tuple[int, ...]:
    return (reserved,) if isinstance(reserved, int) else reserved
