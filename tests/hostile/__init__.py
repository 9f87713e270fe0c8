"""Misbehaving archives over real sockets: each behaviour, and the test which shows that bulkdl survives it.

"Survived" means: the product is correct or a named failure, no wrong file is at a final name, a partial holds what the
journal says, and the next run against a repaired archive downloads the product. `scenes.survive` asserts this for every
case, in each mode (new or interrupted before, with ETag, date, weak ETag or nothing, with size or checksum, by overlap)
and with the hostile response once and always. `test_bodies` and `test_ranges` repeat the cases on the fast lane.
`test_ahead` repeats the cases of `test_answers` and `test_bodies` with pipelined requests among other products.

| behaviour | test |
| --- | --- |
| connections closed, cut or reset anywhere, every time | `test_bodies` "a close …", "a reset …", "a cut …"; `tests/crash/` for our own end |
| stalls in head and body; dribbles | `test_bodies` "silence …"; `tests/transfer/test_attempt.py` "below the least rate" |
| Range ignored | `test_ranges` "the range is ignored …" |
| 206 with wrong start, total, length, label, unit; multipart; unasked | `test_ranges` "a part …", "several parts" |
| content that changes: strong, weak, no validators, date only | `test_ranges` "another edition …" in each mode; `tests/scheduler/test_engine.py` random weather |
| odd ETags: not ASCII, unquoted, empty, huge, weakened | `test_ranges` "an ETag …", "a weakened ETag" |
| 416 with and without Content-Range | `test_ranges` "416 …" |
| HTML, JSON, XML instead of the product, also by redirect | `test_answers` "a login page …", "a JSON error …", "an XML error …" |
| chunked, truncated or broken chunks | `test_bodies` "chunks …", "a chunk …"; `test_answers` "an error whose body breaks" |
| Content-Length wrong, doubled, absurd, missing | `test_bodies` "a length …", "two lengths …", "more bytes than the length" |
| HTTP/1.0 with and without a length | `test_bodies` "HTTP/1.0 …" |
| 408, 425, 429, 5xx; Retry-After in every form | `test_answers` statuses, "429/503 with Retry-After …"; `tests/transfer/test_retry.py` |
| 202 | `test_answers` "202 …" |
| redirects: loops, long chains, invalid targets | `test_answers` "a redirect …", "a good redirect …" |
| redirects to other hosts and from https, with and without the credential | `tests/http/test_client.py` |
| HEAD refused | `tests/transfer/test_existing_file.py` "no HEAD" |
| Content-Disposition: traversal, devices, length, controls, RFC 8187, `.part`, `.bulkdl` | `test_names`; `tests/core/test_filenames.py` |
| huge, slow and broken heads | `test_answers` "a field …", "a hundred thousand fields", "no HTTP"; `test_bodies` "silence inside the head" |
| bytes flipped once or always | `test_bodies` "a flipped byte" (with a checksum: nothing else can tell) |
| unrequested content codings: gzip, deflate, others; cut, damaged, bombs; coded ranges | `test_codings` |
| a further connection to the same product meets any of these | `test_segments` |
| products of 0 bytes and of 1 byte, sizes unknown | `test_sizes` |
| more than 4 GiB | `tests/crash/test_storage_trouble.py` |

If the manifest has neither size nor checksum and the file has no structure, three faults cannot be detected: a body
without a length that ends early with an orderly close, a wrong length or chunk end, and a flipped byte.
"""
