"""Measuring what the production path recommends: protocol, methods, figures."""
