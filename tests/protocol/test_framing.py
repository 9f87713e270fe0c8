"""End of a body, by the raw bytes of its head: one row for each way in which servers write the framing fields."""

from __future__ import annotations

import pytest

from bulkdl.protocol.framing import FramingError, could_be_head, head_end, read_framing, transfer_codings


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([status, *lines, "", ""]).encode("latin-1")


LENGTHS = [
    (["Content-Length: 5"], 5),
    (["content-length:5"], 5),
    (["Content-Length: 5\t"], 5),
    (["Content-Length: 5", "Content-Length: 5"], 5),
    (["Content-Length: 5, 5"], 5),
    (["Content-Length: 5,"], 5),
    (["Content-Length: 5, 5", "X: y", "CONTENT-LENGTH: 05"], 5),
    (["Content-Length:", " 5"], 5),
    (["Content-Length: 0"], 0),
    (["Content-Length: 5", "Transfer-Encoding: identity"], 5),
    (["Content-Length: 5", "Transfer-Encoding:"], 5),
    ([f"Content-Length: {2**63}"], 2**63),
    (["X: y"], None),
    (["Transfer-Encoding: identity"], None),
    (["X-Content-Length: 5"], None),
    (["X: y", " Content-Length: 5"], None),  # a continuation line of X
]


@pytest.mark.parametrize(("lines", "length"), LENGTHS, ids=[str(row[0]) for row in LENGTHS])
def test_the_length_of_a_body_without_chunks(lines: list[str], length: int | None):
    framing = read_framing(head(*lines))
    assert framing.length == length
    assert b"ransfer" not in framing.head
    assert framing.head.lower().count(b"\ncontent-length: ") == (0 if length is None or lines[0] == "content-length:5" else 1)  # fmt: skip
    assert read_framing(framing.head).head is framing.head, "what was written anew is plain"
    assert head_end(framing.head) == len(framing.head)


CHUNKED = [
    ["Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked\t"],
    ["Transfer-Encoding: chunked,"],
    ["Transfer-Encoding:\t, CHUNKED , "],
    ["Transfer-Encoding : chunked"],
    ["Transfer-Encoding: chunked, identity"],
    ["Transfer-Encoding: chunked", "X: y", "Transfer-Encoding: identity"],
    ["Transfer-Encoding: identity", "transfer-encoding: Chunked"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding:", "\tchunked"],
    ["Content-Length: 5", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: 5", "Content-Length: many"],
]


@pytest.mark.parametrize("lines", CHUNKED, ids=str)
def test_each_way_to_name_chunks_becomes_one_plain_field(lines: list[str]):
    framing = read_framing(head(*lines))
    assert framing.length is None
    assert framing.head.count(b"\r\nTransfer-Encoding: chunked\r\n") == 1
    assert framing.head.lower().count(b"transfer-encoding") == 1
    assert b"ontent-Length" not in framing.head
    assert framing.reusable == (not any(line.startswith("Content") for line in lines))


REFUSED = [
    ["Content-Length: 5", "Content-Length: 6"],
    ["Content-Length: 5, 6"],
    ["Content-Length:"],
    ["Content-Length: -5"],
    ["Content-Length: +5"],
    ["Content-Length: 5 5"],
    ["Content-Length: 0x5"],
    ["Content-Length: many"],
    [f"Content-Length: {2**64}"],
    ["Content-Length: " + "9" * 5000],
]


@pytest.mark.parametrize("lines", REFUSED, ids=lambda lines: str(lines)[:50])
def test_a_length_without_a_certain_meaning_is_refused_with_its_cause(lines: list[str]):
    with pytest.raises(FramingError, match="Content-Length"):
        read_framing(head(*lines))


@pytest.mark.parametrize("values", [["gzip, chunked"], ["chunked", "gzip"], ["\x0bchunked"], ["chunked;q=1"], ["gzip"]])
def test_other_transfer_codings_stay_visible(values: list[str]):
    framing = read_framing(head("Content-Length: 5", *(f"Transfer-Encoding: {value}" for value in values)))
    assert framing.length is None
    assert transfer_codings(values) not in ([], ["chunked"])
    assert b"ontent-Length" not in framing.head


@pytest.mark.parametrize("status", ["100 Continue", "103 Early Hints", "204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("lines", [[], ["Content-Length: 5"], ["Content-Length: 5, 5"], ["Transfer-Encoding: chunked"]])
def test_some_statuses_never_have_a_body(status: str, lines: list[str]):
    assert read_framing(head(*lines, status=f"HTTP/1.1 {status}")).length == 0


def test_chunks_in_http_1_0_end_the_use_of_the_connection():
    assert not read_framing(head("Transfer-Encoding: chunked", status="HTTP/1.0 200 OK")).reusable


@pytest.mark.parametrize("begin", [b"H", b"HTTP/", b"HTTP/1.1 200", b""])
def test_the_beginning_of_a_head_is_told_from_rubbish(begin: bytes):
    assert could_be_head(begin)
    assert not could_be_head(b"x" + begin)


def test_a_head_ends_at_a_blank_line_of_either_kind():
    assert [head_end(b"A\r\n\r\nB"), head_end(b"A\n\nB"), head_end(b"A\n\r\nB"), head_end(b"A\r\n\r")] == [5, 3, 4, 0]
