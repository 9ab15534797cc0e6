"""Reads and checks requests: bodies, parameters, `Accept`. Uses nothing else of ingress."""
