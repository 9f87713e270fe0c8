"""Writing to a partial one block behind what is being received."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.storage.partial_file import Partial


__all__ = ["WriteBehindBuffer"]


@dataclass(slots=True)
class WriteBehindBuffer:
    """Writes one block while the next is received: what the network has delivered must not wait for the disk."""

    partial: Partial
    done: Callable[[int, int], None]
    """Told the offset and the length once a block is written."""
    _task: asyncio.Task[None] | None = None

    async def put(self, offset: int, block: bytearray) -> None:
        await self.drain()
        self._task = asyncio.create_task(self._write(offset, block))

    async def drain(self) -> None:
        """Return once the block is written, a cancellation included: it must not be written after the file is closed."""
        if self._task is not None:
            await run_to_completion(self._task)
            self._task = None

    async def _write(self, offset: int, block: bytearray) -> None:
        await self.partial.write(offset, block)
        self.done(offset, len(block))
