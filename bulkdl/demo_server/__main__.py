"""`python -m bulkdl.demo_server`: run the demo archive until interrupted, for experiments."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from contextlib import suppress
from pathlib import Path

from bulkdl.demo_server.demo import DemoArchive

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(options))
    except OSError as error:
        sys.stderr.write(f"the demo archive cannot start: {error.strerror or error}\n")
        return 4
    return 0


async def _serve(options: argparse.Namespace) -> None:
    demo = DemoArchive(
        count=options.count,
        seed=options.seed,
        rate=options.rate,
        token_lifetime=options.token_lifetime,
        port=options.port,
        faulty=None if options.faults else lambda _: [],
    )
    async with demo:
        sys.stdout.write(_write_files(demo, options.folder))
        sys.stdout.flush()
        await asyncio.Event().wait()


def _write_files(demo: DemoArchive, folder: Path) -> str:
    """Write the manifest and the variables to `folder`; return instructions for the user."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = demo.write_manifest(folder / "demo.yaml")
    variables = demo.write_environment(folder / "demo.env")
    return (
        f"The demo archive listens on {demo.archive.origin} with {len(demo.catalogue)} products "
        f"({demo.catalogue.total_size / 1e6:.1f} MB). Press Ctrl-C to stop it.\n"
        f"Manifest: {manifest}\n"
        "In another shell:\n"
        f"  set -a; . {shlex.quote(str(variables.resolve()))}; set +a\n"
        f"  bulkdl run {shlex.quote(str(manifest.resolve()))}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bulkdl.demo_server",
        description="Run the demo archive on 127.0.0.1 until interrupted, and write a manifest for it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=Path("bulkdl-demo"), help="folder for demo.yaml and demo.env")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 picks a free one")
    parser.add_argument("--count", type=int, default=36, help="number of products")
    parser.add_argument("--seed", type=int, default=7, help="seed that determines the generated products")
    parser.add_argument("--rate", type=float, default=600_000, help="bytes per second for each connection")
    parser.add_argument("--token-lifetime", type=float, default=4.0, help="lifetime of access tokens in seconds")
    parser.add_argument(
        "--faults",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="simulate cut connections, 503, 429 and a stall",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
