"""Where an archive is unpacked to, and whose that folder is: two archives never share one, nor an archive and a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.planning.name_registry import name_taken

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.core.models import Product
    from bulkdl.planning.name_registry import NameRegistry

__all__ = ["claim_folder", "folder_of", "occupy_folders"]


def folder_of(product: Product, file: str | None) -> str | None:
    """The folder, relative with `/`, that the product called `file` is unpacked into; None where that is not wished."""
    if not product.extract or file is None:
        return None
    from bulkdl.content.extract import folder_for  # noqa: PLC0415 - all that unpacks, only where that is wished

    above, slash, name = file.rpartition("/")
    return f"{above}{slash}{folder_for(name)}"


def claim_folder(claims: NameRegistry, product: Product, file: str, *, for_good: bool = False) -> None:
    """Take the folder that the product is unpacked into; raise `ProductFailed` (conflict) where another has it."""
    folder = folder_of(product, file)
    if folder is None:
        return
    other = (claims.finish if for_good else claims.claim)(folder, product.index)
    if other is not None:
        raise name_taken(f"{file} would be unpacked into the folder {folder}", other)


def occupy_folders(claims: NameRegistry, named: Iterable[tuple[Product, str]]) -> None:
    """Keep the folders in the paths of files from being those of an archive."""
    seen: set[str] = set()
    for product, file in named:
        folder = file.rpartition("/")[0]
        while folder and folder not in seen:
            seen.add(folder)
            claims.occupy(folder, product.index)
            folder = folder.rpartition("/")[0]
