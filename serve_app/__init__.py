"""PaddleOCR-VL Serve: documents in over HTTP, structured text out, on Ray Serve."""

from importlib.metadata import version

__version__ = version("paddleocr-vl-serve")
