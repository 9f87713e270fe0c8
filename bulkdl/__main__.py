"""`python -m bulkdl`, and the console command `bulkdl`."""

from __future__ import annotations

import sys

from bulkdl.core import gc_control


def main() -> int:
    """Run the command line of this process; return its exit code."""
    gc_control.disable()
    from bulkdl.cli.main import main as run  # noqa: PLC0415 - imports only what the command needs

    try:
        return run(sys.argv[1:])
    finally:
        gc_control.disable_for_exit()


if __name__ == "__main__":
    sys.exit(main())
