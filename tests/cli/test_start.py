"""Start-up: a command imports only what it needs, and the garbage collector is off."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
from contextlib import suppress

import pytest

from bulkdl.cli.parser import COMMANDS, build_parser
from bulkdl.core.errors import ManifestError
from bulkdl.core.gc_control import disabled_at_startup, enable_after_startup
from bulkdl.manifest.loader import load_text

HEAVY = ("aiohttp", "asyncio", "yaml", "jsonschema_rs", "rich", "filelock")
ONLY_FOR_FEW = (
    "importlib.resources",
    "keyring",
    "platformdirs",
    "pyotp",
    "rich",
    "tarfile",
    "zipfile",
    "bulkdl.auth.oidc.factory",
    "bulkdl.cli.commands.report",
    "bulkdl.content.archive_check",
    "bulkdl.content.extract",
)
"""Modules that neither a run of plain files nor a run with a token from a variable needs."""
ONLY_FOR_RUNS = (
    "aiohttp",
    "rich",
    "blake3",
    "tarfile",
    "pyotp",
    "keyring",
    "bulkdl.formats",
    "bulkdl.auth.credentials",
    "asyncio",
    "ssl",
    "concurrent.futures",
    "filelock",
    "aiofiles",
    "importlib.resources",
)
ONLY_FOR_THE_NETWORK = (
    "aiohttp",
    "yarl",
    "urllib.request",
    "bulkdl.http.client",
    "bulkdl.scheduler.engine",
    "bulkdl.operations.services",
    "blake3",
)


def imported_by(*command: str) -> set[str]:
    script = "import sys; from bulkdl.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def with_account(folder, url):
    """Write a manifest with one product; its account takes a token from the variable OWN."""
    manifest = folder / "m.yaml"
    manifest.write_text(
        "version: 1\naccounts: {own: {auth: bearer, token: '${OWN}'}}\ndefaults: {account: own}\n"
        f"products:\n- {{url: '{url}', file: a.tif}}\n"
    )
    return manifest


def test_the_version_costs_no_more_than_the_interpreter():
    assert not imported_by("--version") & set(HEAVY)


def test_check_without_accounts_imports_nothing_that_downloads_or_reads_archives(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- https://archive.example.org/a.zip\n")
    assert not imported_by("check", str(manifest)) & set(ONLY_FOR_RUNS)


def test_check_with_accounts_imports_nothing_that_downloads_either(tmp_path):
    modules = imported_by("check", str(with_account(tmp_path, "https://archive.example.org/a.tif")))
    assert "bulkdl.auth.credentials" in modules
    assert not modules & {"aiohttp", "asyncio"}


def test_check_imports_no_keyring_preset_or_secret_file_that_its_accounts_do_not_need(tmp_path, monkeypatch):
    monkeypatch.setenv("OWN", "token")
    modules = imported_by("check", str(with_account(tmp_path, "https://archive.example.org/a.tif")))
    assert not modules & {
        *ONLY_FOR_FEW,
        "configparser",
        "bulkdl.auth.netrc_file",
        "bulkdl.auth.oidc.totp_secret",
        "hashlib",
        "getpass",
        "termios",
    }


def test_check_of_a_destination_without_a_journal_imports_no_sqlite(tmp_path):
    manifest = with_account(tmp_path, "https://archive.example.org/a.tif")
    assert "sqlite3" not in imported_by("check", str(manifest))
    (tmp_path / ".bulkdl").mkdir()
    sqlite3.connect(tmp_path / ".bulkdl" / "journal.sqlite").close()
    assert "sqlite3" in imported_by("check", str(manifest))


def test_a_run_with_downloads_imports_only_what_most_runs_need(tmp_path, monkeypatch):
    monkeypatch.setenv("OWN", "token")
    manifest = with_account(tmp_path, "http://127.0.0.1:9/a.tif")
    modules = imported_by("run", str(manifest), "--progress", "none", "--give-up-after", "0s")
    assert "aiohttp" in modules
    assert not modules & set(ONLY_FOR_FEW)


def test_a_run_with_everything_in_place_imports_nothing_of_the_network(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- {url: 'https://archive.example.org/a.zip', file: a.zip, size: 3}\n")
    (tmp_path / "a.zip").write_bytes(b"123")
    modules = imported_by("run", str(manifest), "--progress", "none")
    assert "bulkdl.operations.prepare" in modules
    assert not modules & set(ONLY_FOR_THE_NETWORK)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_the_parser_of_one_command_prints_the_same_as_the_whole_tree(name, capsys):
    outputs = []
    for parser in (build_parser(), build_parser(only=name)):
        for words in ([name, "--help"], [name, "--no-such-flag"]):
            with pytest.raises(SystemExit):
                parser.parse_args(words)
        outputs.append(capsys.readouterr())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("first", ["--help", "-h", "nonsense", ""])
def test_a_command_line_without_a_command_first_is_parsed_by_the_whole_tree(first):
    assert build_parser(only=first).format_help() == build_parser().format_help()


@pytest.mark.parametrize("text", ["https://archive.example.org/a.zip\n", "products: 3\n"])
def test_reading_a_manifest_leaves_the_collector_as_it_was(text):
    was_on = gc.isenabled()
    try:
        for switch, on in ((gc.disable, False), (gc.enable, True)):
            switch()
            with suppress(ManifestError):
                load_text(text, environ={})
            assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()


def test_the_collector_is_off_until_a_command_starts_its_work_and_is_restored_afterwards():
    before = gc.get_freeze_count()
    with disabled_at_startup():
        assert not gc.isenabled()
        enable_after_startup()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_check_runs_at_most_one_collection(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- https://archive.example.org/a.zip\n")
    script = (
        "import gc, sys\n"
        "from bulkdl.cli import main\n"
        "gc.collect()\n"
        "seen = []\n"
        "gc.callbacks.append(lambda phase, _: phase == 'start' and seen.append(phase))\n"
        "main.main(sys.argv[1:])\n"
        "print(len(seen), gc.isenabled(), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, "check", str(manifest)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collections, on = done.stderr.split()
    assert int(collections) <= 1
    assert on == "True"


def test_a_process_that_runs_check_exits_without_a_collection(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- https://archive.example.org/a.zip\n")
    script = (
        "import gc, os\n"
        "gc.disable()\n"
        "gc.callbacks.append(lambda phase, _: os.write(2, phase.encode()))\n"
        "from bulkdl.__main__ import main\n"
        "gc.enable()\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "check", str(manifest)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


READINGS = """
import ssl, sys, threading
readings = []
real = ssl.SSLContext.set_default_verify_paths
def read(self):
    readings.append(threading.current_thread() is threading.main_thread())
    real(self)
ssl.SSLContext.set_default_verify_paths = read
"""


def test_a_run_reads_the_certificates_of_the_system_once_and_off_the_main_thread(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- {url: 'http://127.0.0.1:9/a.zip', file: a.zip}\n")
    script = f"{READINGS}\nfrom bulkdl.cli.main import main\nmain(sys.argv[1:])\nprint(*readings, file=sys.stderr)"
    command = [sys.executable, "-c", script, "run", str(manifest), "--progress", "none", "--give-up-after", "0s"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["False"], "one reading, not on the main thread"


def test_the_python_api_leaves_the_ssl_contexts_of_aiohttp_unchanged(tmp_path):
    script = f"""{READINGS}
import bulkdl
mapping = {{"version": 1, "destination": sys.argv[1], "products": [{{"url": "http://127.0.0.1:9/a.zip", "file": "a.zip"}}]}}
bulkdl.download(bulkdl.from_mapping(mapping, environ={{}}), give_up_after=0)
print(*readings, file=sys.stderr)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "True" in done.stderr.split(), "aiohttp's own, on the thread that imports it"
