"""PaddleX's format: its requests, pages, responses and job results.

Each dialect is one such room and one thin route. May use the pipeline and below.
"""

DIALECT = "paddlex"
"""The name of this dialect in job records."""
