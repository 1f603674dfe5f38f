"""Measurements of speechde side by side with its peers, in one process each, in the order A B A B.

``python -m benchmarks`` runs all and writes ``results/benchmarks/<name>.json``; ``docs/performance.md`` shows them. A
benchmark first checks that both sides give the same result: a faster way to another answer is no comparison.
"""
