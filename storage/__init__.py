"""The store: one DuckDB file per shard holding the log, identities, counters, tokens and journal.

Functions take a `Reader` (a `Database`, a `Snapshot` or a `Tx`) to read and a `Tx` to write. A column
`x TIMESTAMP` of a table crosses the package border as int64 epoch milliseconds named `x_ms`.
"""
