"""Nights with outages: bulkdl, curl and aria2c with a clock that runs 120 times as fast.

python -m benchmarks.outages [--only TEXT] [--tools bulkdl,curl] [--write]
"""
