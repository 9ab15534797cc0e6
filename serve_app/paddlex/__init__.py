"""PaddleX's format: its requests, its pages, its responses.

A dialect is one room like this and one thin route. May use the pipeline and below.
"""
