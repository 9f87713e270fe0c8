"""Python API: a run as an async context that yields outcomes, and a call that waits for the whole run.

```python
async with bulkdl.Downloads("manifest.yaml", workers=4) as downloads:
    async for outcome in downloads:
        print(outcome.state, outcome.path)
print(downloads.result.exit_code)

result = bulkdl.download(["https://archive.example.org/a.zip"], destination="products")
```
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bulkdl.core.errors import UsageError, first_error
from bulkdl.core.events import Hub, ProductFinished
from bulkdl.core.models import Manifest, RunOptions, Settings
from bulkdl.core.stop_request import StopReason, StopSignal
from bulkdl.manifest.loader import from_mapping, load, load_text
from bulkdl.manifest.settings import resolve, resolve_run_options
from bulkdl.operations.run import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    from bulkdl.core.events import Event, Observer
    from bulkdl.core.models import Outcome
    from bulkdl.operations.result import RunResult

__all__ = ["Downloads", "ManifestSource", "download"]

ManifestSource = str | os.PathLike[str] | Mapping[str, object] | list[str] | Manifest
"""A path to a manifest, a manifest as plain data, a list of URLs, or a loaded `Manifest`."""


class Downloads:
    """One run of a manifest; iterate over it to get the `Outcome` of each product.

    Entering the block starts the run. Leaving it early stops the run after saving its state, and the next run resumes
    from there. `result` is available after the block.
    """

    def __init__(
        self,
        manifest: ManifestSource,
        *,
        destination: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
        observers: Iterable[Observer] = (),
        **settings: object,
    ) -> None:
        """Load and validate the manifest; nothing starts yet.

        `settings`: the flags of `bulkdl run` by their names, as values or as texts, such as `workers=4`,
        `limit_rate="40M"`, `select=["*.zip"]`, `overwrite=True`.

        Raise `ManifestError` with everything that is wrong with the manifest, `UsageError` for a setting.
        """
        self._environ = os.environ if environ is None else environ
        self.manifest = _manifest(manifest, destination, self._environ)
        self.settings, self.options = _settings(settings, self._environ, self.manifest)
        self._hub = Hub(*observers, self._observe)
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._group = asyncio.TaskGroup()
        self._stop: StopSignal | None = None
        self._result: RunResult | None = None

    @property
    def result(self) -> RunResult:
        """Result of the run; raise `RuntimeError` before its end."""
        if self._result is None:
            raise RuntimeError("the run has not ended: leave its `async with` block first")
        return self._result

    async def __aenter__(self) -> Self:
        self._stop = StopSignal()
        await self._group.__aenter__()
        self._group.create_task(self._run(self._stop))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        with first_error():
            await self._group.__aexit__(kind, error, trace)

    def stop(self) -> None:
        """Stop the run early, from its own event loop; its state is saved, and the next run resumes from there."""
        if self._stop is not None and self._result is None:
            self._stop.request(StopReason.SIGINT)

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Outcome]:
        while (outcome := await self._outcomes.get()) is not None:
            yield outcome
        self._outcomes.put_nowait(None)

    async def _run(self, stop: StopSignal) -> None:
        try:
            self._result = await run(
                self.manifest,
                settings=self.settings,
                options=self.options,
                hub=self._hub,
                environ=self._environ,
                stop=stop,
            )
        finally:
            self._outcomes.put_nowait(None)

    def _observe(self, event: Event) -> None:
        if isinstance(event, ProductFinished):
            self._outcomes.put_nowait(event.outcome)


def download(manifest: ManifestSource, **options: Any) -> RunResult:
    """Run a manifest and wait for its end; works in a notebook, too, where an event loop is already running.

    The arguments are those of `Downloads`. Raise `ManifestError` or `UsageError` before the first download; every other
    problem is in the result. An interruption (Ctrl-C, or that of a notebook's cell) saves the state of the run before
    `KeyboardInterrupt` is raised.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_RunOnThread(manifest, options).run())
    with _interruptible():
        return _RunOnThread(manifest, options).result()


class _RunOnThread:
    """A run on the event loop of another thread, while the caller's thread, which has a loop of its own, waits."""

    def __init__(self, manifest: ManifestSource, options: Mapping[str, Any]) -> None:
        self._manifest = manifest
        self._options = options
        self._interrupted = False
        self._running: tuple[asyncio.AbstractEventLoop, Downloads] | None = None

    def result(self) -> RunResult:
        """Run to the end; on an interruption stop the run, wait until its state is saved, and raise the interruption."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="bulkdl")
        future = pool.submit(asyncio.run, self.run())
        try:
            _wait_for(future)
        except KeyboardInterrupt:
            self._interrupted = True
            if self._running is not None:
                loop, downloads = self._running
                with suppress(RuntimeError):  # the loop has just been closed
                    loop.call_soon_threadsafe(downloads.stop)
            _wait_for(future)
            raise
        finally:
            pool.shutdown(wait=False)
        return future.result()

    async def run(self) -> RunResult:
        async with Downloads(self._manifest, **self._options) as downloads:
            self._running = asyncio.get_running_loop(), downloads
            if self._interrupted:
                downloads.stop()
            async for _ in downloads:
                pass
        return downloads.result


def _wait_for(future: Future[RunResult]) -> None:
    # On Windows an interruption does not end a wait without a limit.
    while not wait([future], timeout=_INTERRUPTION_CHECK_S).done:
        pass


_INTERRUPTION_CHECK_S = 0.2


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have Ctrl-C raise `KeyboardInterrupt` inside the block.

    The handler that `asyncio.run` installs cancels its main task instead, which does nothing while this thread waits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if getattr(getattr(before, "func", None), "__name__", "") != "_on_sigint":
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _manifest(
    manifest: ManifestSource, destination: str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> Manifest:
    folder = None if destination is None else Path(destination)
    match manifest:
        case Manifest():
            return manifest
        case Mapping():
            return from_mapping(manifest, destination=folder, environ=environ)
        case list():
            return load_text("\n".join(manifest), name="<urls>", destination=folder, environ=environ)
        case _:
            return load(os.fspath(manifest), destination=folder, environ=environ)


def _settings(
    given: Mapping[str, object], environ: Mapping[str, str], manifest: Manifest
) -> tuple[Settings, RunOptions]:
    known = {*Settings.__dataclass_fields__, *RunOptions.__dataclass_fields__}
    unknown = sorted(set(given) - known)
    if unknown:
        raise UsageError(f"unknown setting {', '.join(unknown)}", hint=f"Known settings: {', '.join(sorted(known))}")
    flags = {
        name: str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        for name, value in given.items()
    }
    return (
        resolve(flags=flags, environ=environ, manifest=manifest.settings),
        resolve_run_options(flags=flags, environ=environ),
    )
