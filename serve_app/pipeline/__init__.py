"""The way of a page: opens a document, sends its pages to rasterizer and recognizer, stores the result.

May use outputs, recognition, raster, storage and below.
"""
