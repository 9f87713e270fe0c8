"""Test scenes for hostile archives: one product in every relevant state, each on its own path.

A state (`Mode`) defines the validators that the archive sends, the facts in the manifest, and whether an earlier
response was cut. A dose defines whether the hostile response comes once or on every request.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from bulkdl.protocol.byte_ranges import normalise
from tests.effort import effort
from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Wire, head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.harness import Done

    Answer = Callable[["Turn"], Awaitable[None]]

SIZE = 300_000
CUT = 100_000
BODY = body_of(SIZE)
OTHER = body_of(SIZE, 1)
MADE = ("Date", formatdate(1_750_009_000, usegmt=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One state of the product. `fields` are its validators, `newer` those of the next version."""

    cut: bool = False
    fields: tuple[tuple[str, str], ...] = ()
    newer: tuple[tuple[str, str], ...] = ()
    product: dict[str, Any] = field(default_factory=dict)

    @property
    def checked(self) -> bool:
        return "checksum" in self.product


def dated(seconds: int) -> tuple[tuple[str, str], ...]:
    return (("Last-Modified", formatdate(seconds, usegmt=True)), MADE)


TAGGED: dict[str, Any] = {"fields": (("ETag", '"1"'),), "newer": (("ETag", '"2"'),)}
WEAK: dict[str, Any] = {"fields": (("ETag", 'W/"1"'),), "newer": (("ETag", 'W/"2"'),)}
DATED: dict[str, Any] = {"fields": dated(1_750_000_000), "newer": dated(1_750_004_000)}
MODES = {
    "new": Mode(**TAGGED),
    "new, nothing known": Mode(),
    "new, size": Mode(**TAGGED, product={"size": SIZE}),
    "new, checksum": Mode(product={"checksum": sha256(BODY)}),
    "cut, ETag": Mode(cut=True, **TAGGED),
    "cut, date": Mode(cut=True, **DATED),
    "cut, weak ETag": Mode(cut=True, **WEAK),
    "cut, checksum": Mode(cut=True, product={"checksum": sha256(BODY)}),
    "cut, overlap": Mode(cut=True, product={"resume": "overlap"}),
}
DOSES = ("once", "always")
MOST = effort(("new", "cut, ETag", "cut, date", "cut, checksum", "cut, overlap"), tuple(MODES))
"""All of them in the long form; the others are near relations of these."""


@dataclass(slots=True)
class Turn:
    """One request for the product, with methods that answer it."""

    request: RawRequest
    wire: Wire
    mode: Mode

    @property
    def asked(self) -> tuple[int, int] | None:
        """Requested range, whatever its conditions."""
        return self.request.range(SIZE)

    @property
    def origin(self) -> str:
        return f"http://{self.request.header('Host')}"

    async def send(
        self,
        status: int,
        body: bytes = b"",
        *fields: tuple[str, object],
        length: int | None = -1,
        version: str = "HTTP/1.1",
    ) -> None:
        """Send a response with only these fields; `length` is the declared length, by default the right one."""
        content = b"" if self.request.method == "HEAD" else body
        told = [] if length is None else [("Content-Length", len(body) if length < 0 else length)]
        await self.wire.send(head(status, *told, ("Connection", "close"), *fields, version=version) + content)

    async def whole(self, body: bytes = BODY, *more: tuple[str, object], **how: Any) -> None:
        fields = self.mode.newer if body is OTHER else self.mode.fields
        await self.send(200, body, *fields, *more, **how)

    async def part(self, start: int, stop: int, body: bytes = BODY, *, total: object = SIZE, **how: Any) -> None:
        """Send a 206 labelled with the given range and total."""
        fields = self.mode.newer if body is OTHER else self.mode.fields
        span = ("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        await self.send(206, body[start:stop], span, *fields, **how)

    async def orderly(self, body: bytes = BODY) -> None:
        fields = self.mode.newer if body is OTHER else self.mode.fields
        condition, asked = self.request.header("If-Range"), self.asked
        if asked is None or (condition is not None and condition not in {value for _, value in fields}):
            await self.whole(body, ("Accept-Ranges", "bytes"))
        else:
            await self.part(*asked, body)


@dataclass(slots=True)
class Archive:
    """Responder for `/DOSE/MODE`: first the response that leads to the mode, then `hostile`; correct once `mended`."""

    hostile: Answer
    mended: bool = False
    turns: dict[str, int] = field(default_factory=dict)

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        _, dose, number, *rest = request.path.split("/")
        turn = Turn(request, wire, list(MODES.values())[int(number)])
        if rest:  # the target of a redirect in the hostile response
            await self.hostile(turn)
            return
        count = self.turns[request.path] = self.turns.get(request.path, -1) + 1
        begun = count - (1 if turn.mode.cut else 0)
        if begun < 0:
            await turn.whole(BODY[:CUT], ("Accept-Ranges", "bytes"), length=SIZE)
        elif self.mended or (dose == "once" and begun > 0):
            await turn.orderly()
        else:
            await self.hostile(turn)


def products(origin: str, *, only: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return every dose in every mode as products of one manifest; the file is named `DOSE, MODE.bin`."""
    return [
        {"url": f"{origin}/{dose}/{number}", "file": f"{dose}, {name}.bin", **mode.product}
        for dose in DOSES
        for number, (name, mode) in enumerate(MODES.items())
        if name in only
    ]


def ends(done: Done) -> dict[str, str]:
    """Return `DOSE, MODE` -> "right" or the kind of failure; assert that each failure has a readable reason."""
    found: dict[str, str] = {}
    for file, outcome in done.outcomes.items():
        failure = outcome.failure
        found[file.removesuffix(".bin")] = "right" if failure is None else failure.kind.value
        if failure is not None:
            assert len(failure.reason) > 10
            assert failure.reason.isprintable()
    return found


def assert_nothing_wrong(place: Place, done: Done, editions: tuple[bytes, ...]) -> None:
    """Assert that final files are one complete version, as in the summary, and that partials match the journal."""
    for file, outcome in done.outcomes.items():
        found = place.file(file)
        assert (found is not None) == (outcome.failure is None), file
        assert found is None or found in editions, file
    for entry in place.journal().values():
        if entry.part is None or not entry.ranges:
            continue
        part = place.file(entry.part) or b""
        assert any(all(part[a:b] == e[a:b] for a, b in normalise(entry.ranges)) for e in editions), entry.file
    wanted = set(done.outcomes) | {f"{file}.part" for file in done.outcomes}
    assert set(place.names()) <= wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A hostile response and its expected end: one for all modes, then the exceptions."""

    answer: Answer
    once: str = "right"
    always: str = "right"
    but: dict[str, str] = field(default_factory=dict)
    """`DOSE, MODE` -> expected end."""
    only: tuple[str, ...] = tuple(MODES)
    """Modes in which wrong bytes can be detected at all."""
    changed: bool = False
    """True: the archive has another version, which is also accepted."""
    settings: dict[str, Any] = field(default_factory=dict)

    def expected(self) -> dict[str, str]:
        ends = {f"{dose}, {mode}": getattr(self, dose) for dose in DOSES for mode in self.only}
        return ends | {key: end for key, end in self.but.items() if key in ends}


def in_most(case: Case) -> Case:
    return replace(case, only=tuple(mode for mode in case.only if mode in MOST))


async def survive(case: Case, tmp_path: Path, *, lane: str = "0") -> None:
    """Run every dose in every mode against the hostile response, then again after the archive is repaired.

    `lane`: the least body that goes past the event loop, such as `16K`; `0`: none does.
    """
    workers = len(DOSES) * len(case.only)  # each product has one; more would only be woken for nothing
    # The hostile products fail probe after probe, so the origin is given up late, not before the others have asked.
    settings = {"give_up_after": 6 * 3600.0, **case.settings}
    place, archive = Place(tmp_path, workers=workers, **settings), Archive(case.answer)
    place.environ["BULKDL_FAST_LANE"] = lane
    editions = (BODY, OTHER) if case.changed else (BODY,)
    async with RawServer(archive) as server:
        wishes = products(server.origin, only=case.only)
        done = await place.run(*wishes)
        assert_nothing_wrong(place, done, editions)
        found, expected = ends(done), case.expected()
        others = {key: end for key, end in found.items() if end != expected[key]}
        assert not others, "\n".join([str(others), *(str(o.failure) for o in done.result.failures if o.failure)])
        archive.mended = True
        again = await place.run(*wishes)
        assert_nothing_wrong(place, again, editions)
        mended = ends(again)
        # A product proven faulty at its source stays in quarantine while the archive shows the same version.
        faulty = {key for key, end in mended.items() if end == found[key] == "checksum"}
        assert [key for key, end in mended.items() if end != "right" and key not in faulty] == []
        assert place.names() == sorted(f"{key}.bin" for key in mended if key not in faulty)
