"""Checking a log before it is used: what its columns mean, what it is like, which settings fit it."""
