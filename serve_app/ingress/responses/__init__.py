"""Writes responses: files, and streams of a document's events."""
