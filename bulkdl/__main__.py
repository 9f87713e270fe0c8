"""`python -m bulkdl`."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """The process's own: it ends without the two collections of the interpreter, which would find what ends anyway."""
    gc.disable()
    from bulkdl.cli.main import main as run  # noqa: PLC0415 - imports only what the command needs

    try:
        return run(sys.argv[1:])
    finally:
        gc.disable()
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
