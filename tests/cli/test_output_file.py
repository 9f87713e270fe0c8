"""A result goes to the file that the user named, whatever it is: nothing but a regular file is replaced."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bulkdl.cli.output_file import require_writable, write_file
from bulkdl.core.errors import StorageStopped, UsageError

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


def test_a_regular_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "report.html"
    for text in ("<p>one long text", "<p>ok"):
        require_writable(path, "the report")
        write_file(path, text, "the report")
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", text)]


@posix
def test_a_replaced_file_keeps_its_mode_and_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("n" * 255)
    path.touch(0o600)
    write_file(path, "x", "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "x"


@pytest.mark.parametrize("name", ["missing/report.html", ".", "nul\0.html", "n" * 300])
def test_what_cannot_be_written_is_said_before_and_after_the_work(tmp_path, name):
    path = tmp_path / name
    if len(name) < 256:
        with pytest.raises(UsageError, match=r"the report .* cannot be written"):
            require_writable(path, "the report")
    with pytest.raises(StorageStopped, match=r"the report .* cannot be written"):
        write_file(path, "", "the report")


@posix
@pytest.mark.parametrize("depth", [1, 3])
def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path, depth):
    target = tmp_path / "folder" / "target.html"
    target.parent.mkdir()
    link = target
    for number in range(depth):
        link, before = tmp_path / f"link{number}", link
        link.symlink_to(os.path.relpath(before, tmp_path))
    for text in ("first", "second"):
        require_writable(link, "the report")
        write_file(link, text, "the report")
        assert link.is_symlink()
        assert target.read_text() == text


@posix
def test_a_fifo_is_written_to_directly_and_by_a_link(tmp_path):
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (fifo, link):
        read: list[str] = []
        reader = threading.Thread(target=lambda read=read: read.append(fifo.read_text()))
        reader.start()
        require_writable(path, "the report")
        write_file(path, "<p>ok", "the report")
        reader.join()
        assert read == ["<p>ok"]
        assert fifo.is_fifo()


@posix
def test_a_device_stays_a_device(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.open("w").close()
    except OSError:
        pytest.skip("no right to make or open a device here")
    require_writable(device, "the report")
    write_file(device, "gone", "the report")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["null"]


PROGRAM = """
import sys
from pathlib import Path
from bulkdl.cli.output_file import require_writable, write_file
print("before", flush=True)
require_writable(Path(sys.argv[1]), "x")
write_file(Path(sys.argv[1]), "text\\n", "x")
print("after", flush=True)
"""


@posix
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("to_file", [False, True])
def test_standard_output_by_any_of_its_names_gets_the_text_in_order(tmp_path, name, to_file):
    if not Path(name).exists() and name != "link":
        pytest.skip("no such name here")
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    out = tmp_path / "out"
    with out.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(link) if name == "link" else name],
            stdout=file if to_file else subprocess.PIPE,
            check=True,
        )
    text = out.read_bytes() if to_file else done.stdout
    assert text.decode().splitlines() == ["before", "text", "after"]
    assert link.is_symlink()
