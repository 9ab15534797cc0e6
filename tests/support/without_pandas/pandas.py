"""Hides pandas, as in an environment without PaddleOCR-VL: see WITHOUT_PANDAS."""

raise ImportError("this Ray of the tests has no pandas")
