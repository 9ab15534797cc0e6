"""Outgoing requests to addresses that clients name: documents are downloaded, webhooks are posted.

May use storage and below.
"""
