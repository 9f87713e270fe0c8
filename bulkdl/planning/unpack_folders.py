"""Folders into which archives are unpacked, and their owners: no two archives, and no archive and file, share one.

A single compressed file is unpacked to a file; it takes the place of the folder here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.planning.name_registry import name_taken

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.core.models import Product
    from bulkdl.planning.name_registry import NameRegistry

__all__ = ["folder_of", "occupy_folders", "reserve_folder"]


def folder_of(product: Product, file: str | None) -> str | None:
    """Return the folder, relative with `/`, into which the product `file` is unpacked; None without `extract`."""
    if not product.extract or file is None:
        return None
    from bulkdl.content.extract import folder_for  # noqa: PLC0415 - imports all unpacking code

    above, slash, name = file.rpartition("/")
    return f"{above}{slash}{folder_for(name)}"


def reserve_folder(names: NameRegistry, product: Product, file: str, *, for_good: bool = False) -> None:
    """Reserve the folder into which the product is unpacked; raise `ProductFailed` (conflict) if another has it."""
    folder = folder_of(product, file)
    if folder is None:
        return
    other = (names.confirm if for_good else names.reserve)(folder, product.index)
    if other is not None:
        from bulkdl.content.extract import is_single  # noqa: PLC0415

        what = "file" if is_single(file) else "folder"
        raise name_taken(f"{file} would be unpacked into the {what} {folder}", other)


def occupy_folders(names: NameRegistry, named: Iterable[tuple[Product, str]]) -> None:
    """Block the parent folders of all files, so that no archive is unpacked into one of them."""
    seen: set[str] = set()
    for product, file in named:
        folder = file.rpartition("/")[0]
        while folder and folder not in seen:
            seen.add(folder)
            names.occupy(folder, product.index)
            folder = folder.rpartition("/")[0]
