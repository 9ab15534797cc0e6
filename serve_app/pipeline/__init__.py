"""Opens documents, sends their pages through rasterizer and recognizer, and stores the results.

May use outputs, recognition, raster, storage and below.
"""
