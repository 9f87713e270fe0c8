"""`python -m bulkdl`."""

from __future__ import annotations

import sys


def main() -> int:
    from bulkdl.cli.main import main as run  # noqa: PLC0415 - imports only what the command needs

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
