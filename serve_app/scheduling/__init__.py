"""Queues and limits: fair order, batches, and bounds on work in progress. Uses only errors."""
