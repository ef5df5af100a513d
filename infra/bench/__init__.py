"""Benchmarks: freshet against a baseline in the same run, as tables, JSON and a page.

One module per benchmark with a function `run(room) -> Findings`; `catalog.py` lists them.
"""
