"""Run one command and record its cost: `python -I -S launch.py RESULT COMMAND...`.

A process of its own, and a small one, because Linux counts the memory of the process that starts another into the
other's peak: the floor of every peak is then that of a bare interpreter (about 9 MB), below any contestant's.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> int:
    """Write `code wall user system peak-bytes started` (seconds of the monotonic clock) to the file RESULT."""
    result, command = sys.argv[1], sys.argv[2:]
    started = time.monotonic()
    try:
        pid = os.posix_spawnp(command[0], command, os.environ)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - started
    unit = 1 if sys.platform == "darwin" else 1024
    code = os.waitstatus_to_exitcode(status)
    with open(result, "w", encoding="ascii") as out:  # noqa: PTH123 - pathlib would double this process
        out.write(f"{code} {wall!r} {usage.ru_utime!r} {usage.ru_stime!r} {usage.ru_maxrss * unit} {started!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
