"""Waiting and turns: the queue that batches are cut from, and bounds on what is held at once. Knows only errors."""
