"""Idempotency-Key: the first request with a key is processed, and its response goes to all that repeat it."""
