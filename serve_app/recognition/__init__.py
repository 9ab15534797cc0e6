"""Runs engines: one replica with its batch queue and its engine's thread.

Sees pages as RGB arrays; knows no documents, dialects or HTTP. May use scheduling, runtime and below.
"""
