"""Reads and validates requests: bodies, parameters, `Accept`. Uses nothing else of ingress."""
