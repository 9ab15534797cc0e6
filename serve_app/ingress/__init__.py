"""HTTP in and out: authenticates, reads requests, calls the pipeline or Jobs, writes responses.

It may use every room but cli.
"""
