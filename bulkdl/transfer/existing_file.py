"""A file that is already at the final name: does it agree with what is known of it? Never overwritten unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.content.verify import digests
from bulkdl.core.errors import ProductFailed, TryAgain
from bulkdl.core.models import FailureKind
from bulkdl.planning.local_status import Standing, standing
from bulkdl.protocol.content_coding import named
from bulkdl.protocol.headers import parse_retry_after
from bulkdl.protocol.response_head import StatusClass, classify
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.state import Settled

if TYPE_CHECKING:
    from bulkdl.http.response import Reply
    from bulkdl.journal.records import Entry
    from bulkdl.transfer.context import Bench
    from bulkdl.transfer.task import Job

__all__ = ["ask_archive", "ask_size", "compare_digests", "conflict", "settle", "settle_named"]

UNVERIFIED = "existing, unverified"
TRUSTED = "existing, trusted unseen"


async def settle(bench: Bench, job: Job) -> Settled | None:
    """What a file that is already at a known final name makes of the job; None when there is something to fetch.

    Raise `ProductFailed` (conflict) for one that disagrees, unless it may be overwritten.
    """
    options = bench.options
    match job.standing:
        case Standing.ABSENT:
            return None
        case Standing.HASH:
            try:
                return await compare_digests(bench, job, await bench.journal.get(job.product.id))
            except ProductFailed:
                if not options.overwrite:
                    raise
        case Standing.DISAGREES if not options.overwrite:
            raise conflict(job, "does not agree with what is known of it")
        case Standing.UNKNOWN if options.trust_existing:
            facts = await bench.storage.stat(bench.storage.final(job.file or ""))
            return Settled(facts.size if facts else 0, note=TRUSTED)
        case Standing.UNKNOWN if not options.overwrite:
            return await ask_archive(bench, job)
    job.overwrite, job.standing = True, Standing.ABSENT
    return None


async def compare_digests(bench: Bench, job: Job, entry: Entry | None) -> Settled:
    """Read the file that is there; raise `ProductFailed` (conflict) when a checksum is another."""
    path = bench.storage.final(job.file or "")
    wanted = job.product.checksums or (entry.digests if entry is not None else ())
    flight = bench.hub.counters.flights[job.product.id]
    flight.phase = "verifying"
    try:
        found = await digests(path, {c.algorithm for c in wanted}) if wanted else {}
    except OSError as error:
        raise storage_error(error, path=path, what="read", root=bench.storage.root) from error
    wrong = [c for c in wanted if found[c.algorithm] != c.hex]
    if wrong:
        raise conflict(job, f"its {wrong[0].algorithm} is {found[wrong[0].algorithm]}, expected {wrong[0].hex}")
    facts = await bench.storage.stat(path)
    return Settled(facts.size if facts else 0, tuple(wanted))


async def settle_named(bench: Bench, job: Job, *, remote_size: int | None) -> Settled | None:
    """What a name that only the server knew leads to: None when nothing is there (or it may be replaced)."""
    facts = await bench.storage.stat(bench.storage.final(job.file or ""))
    if facts is not None and bench.parts.get(job.file or "", job.product.id) != job.product.id:
        raise conflict(job, "is the partial of another product")  # whatever its size: it will move away
    match standing(job.product, None, facts):
        case Standing.ABSENT:
            return None
        case Standing.IN_PLACE if facts is not None:
            return Settled(facts.size)
        case Standing.HASH:
            try:
                return await compare_digests(bench, job, None)
            except ProductFailed:
                if not bench.options.overwrite:
                    raise
        case Standing.UNKNOWN if facts is not None and not bench.options.overwrite:
            if bench.options.trust_existing or facts.size == remote_size:
                return Settled(facts.size, note=UNVERIFIED)
            raise conflict(job, _sizes(facts.size, remote_size))
        case Standing.DISAGREES if not bench.options.overwrite:
            raise conflict(job, "it is not what the manifest describes")
    job.overwrite = True
    return None


async def ask_archive(bench: Bench, job: Job) -> Settled:
    """Ask for the size of a product whose name is taken by a file of which nothing is known.

    Raise `ProductFailed` (conflict) when the archive names another size or none.
    """
    facts = await bench.storage.stat(bench.storage.final(job.file or ""))
    here = facts.size if facts is not None else 0
    async with bench.connections.permit(account=job.product.account, host=job.source.host):
        async with bench.open(job, headers={}, method="HEAD") as reply:
            remote = _size(job, reply)
        if remote is None:  # HEAD is optional in practice, and archives that make zips on the fly know no length before
            async with bench.open(job, headers={}) as reply:
                remote = _size(job, reply)
                reply.close()
                if classify(reply.head.status) in (StatusClass.LATER, StatusClass.PREPARING):
                    raise TryAgain(
                        f"{reply.url.host} answered {reply.head.status} when asked for the size of {job.file}",
                        kind=FailureKind.HTTP,
                        wait=parse_retry_after(reply.head.retry_after, now=bench.clock.wall()),
                    )
    if remote != here:
        raise conflict(job, _sizes(here, remote))
    return Settled(here, note=UNVERIFIED)


async def ask_size(bench: Bench, job: Job) -> int | None:
    """The size that the archive names without sending anything, None where it does not."""
    async with (
        bench.connections.permit(account=job.product.account, host=job.source.host),
        bench.open(job, headers={}, method="HEAD") as reply,
    ):
        return _size(job, reply)


def _size(job: Job, reply: Reply) -> int | None:
    coded = named((reply.head.content_encoding,)) and not job.keeps_coding(reply)
    return reply.head.content_length if reply.head.status == 200 and not coded else None


def conflict(job: Job, why: str) -> ProductFailed:
    return ProductFailed(
        f"{job.file} is already there and {why}",
        kind=FailureKind.CONFLICT,
        hint="Move it away, or let it be replaced with --overwrite",
    )


def _sizes(here: int, remote: int | None) -> str:
    return f"has {here} bytes, and the archive names {'no size' if remote is None else f'{remote} bytes'}"
