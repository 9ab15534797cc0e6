"""PaddleOCR-VL through the paddleocr library, natively or with an inference server."""
