"""Wire formats: records as topics hold them, bytes and headers, into columns and dead letters."""
