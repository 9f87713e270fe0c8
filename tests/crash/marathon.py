"""`python -m tests.crash.marathon --kills 300`: long run of the kill test that prints figures."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bulkdl.demo_server.catalog import Item, Validators
from bulkdl.demo_server.generated_files import Kind
from tests.crash.kills import Toll, endure
from tests.crash.scene import ITEMS

LARGE = (
    Item(name="scene-1.zip", size=60_000_000, seed=21, kind=Kind.ZIP),
    Item(name="scene-2.bin", size=40_000_000, seed=22, validators=Validators.ETAG),
    Item(name="summed-3.bin", size=30_000_000, seed=23, validators=Validators.NONE),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill the program at random moments and let it go on each time.")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=4e6, help="bytes a second for each connection")
    parser.add_argument("--folder", type=Path, help="where the destinations go (a temporary folder by default)")
    options = parser.parse_args()

    def say(toll: Toll) -> None:
        if toll.kills % 10 == 0:
            print(toll, flush=True)  # noqa: T201 - a command-line program

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        toll = asyncio.run(
            endure(
                Path(folder),
                kills=options.kills,
                seed=options.seed,
                rate=options.rate,
                items=(*ITEMS.values(), *LARGE),
                on_kill=say,
            )
        )
    print(toll)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
