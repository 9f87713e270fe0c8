"""Archives with known rules, and how close to the best possible time a download tool comes without any flag.

python -m benchmarks.adaptive [--only TEXT] [--peers] [--sweep] [--random N --seed S] [--write]
"""
