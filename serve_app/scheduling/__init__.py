"""Queues, limits and scaling: fair order, batches, bounds on work in progress, which replica gets a page, and how many there are.
Uses Ray Serve and errors."""
