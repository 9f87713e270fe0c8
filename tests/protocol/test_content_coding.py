"""Codings that a head names, compared with the bytes of the body."""

from __future__ import annotations

import gzip
import zlib

import pytest

from bulkdl.protocol.content_coding import has_aws_chunks, is_only_label

TEXT = b"a,b,c\n1,2,3\n" * 100
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
DEFLATED = RAW.compress(TEXT) + RAW.flush()
LABELS = [
    ("gzip", TEXT, True),
    ("gzip", gzip.compress(TEXT, mtime=0), False),
    ("gzip", gzip.compress(TEXT, mtime=0)[:20], False),
    ("gzip", b"", False),  # nothing is known of an empty body
    ("gzip", b"\x1f", True),
    ("br, gzip", gzip.compress(TEXT, mtime=0), False),  # gzip was applied last
    ("gzip, zstd", TEXT, True),
    ("deflate", TEXT, True),
    ("deflate", zlib.compress(TEXT), False),
    ("deflate", DEFLATED, False),
    ("zstd", TEXT, True),
    ("zstd", b"\x28\xb5\x2f\xfd" + TEXT, False),
    ("zstd", b"\x5f\x2a\x4d\x18" + TEXT, False),
    ("compress", TEXT, True),
    ("compress", b"\x1f\x9d" + TEXT, False),
    ("br", TEXT, False),  # its bytes have no mark
    ("transfer gzip", TEXT, False),
]


@pytest.mark.parametrize(("coding", "body", "label"), LABELS)
def test_the_first_bytes_tell_whether_a_coding_is_only_a_label(coding, body, label):
    assert is_only_label(coding, body, ended=True) == label


def test_too_few_bytes_tell_nothing_yet():
    assert not is_only_label("gzip", b"\x1f", ended=False)


SIGNED = b"400;chunk-signature=" + b"0a" * 32 + b"\r\n"
CHUNKS = [
    (SIGNED + TEXT, None, False, True),
    (SIGNED + TEXT, 10_000, True, True),
    (SIGNED.replace(b"0a", b"xy") + TEXT, None, False, False),
    (b"400\r\n" + TEXT, 1200, True, True),
    (b"400\r\n" + TEXT, None, True, True),
    (b"400\r\n" + TEXT, None, False, False),
    (b"400\r\n" + TEXT, 1000, True, False),  # no room for the chunk: a list of numbers
    (TEXT, 1200, True, False),
]


@pytest.mark.parametrize(("body", "length", "labelled", "framed"), CHUNKS)
def test_the_chunks_of_an_upload_are_recognised(body, length, labelled, framed):
    assert has_aws_chunks(body, length=length, labelled=labelled) == framed
