"""The table of wrong files: hostile archives against bulkdl and its peers, and what each leaves at a final name.

python -m benchmarks.hostile [--only NAME] [--tools bulkdl,curl] [--write]
"""
