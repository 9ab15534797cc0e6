"""Writes a document in each output format.

May use raster (to read the source again) and below; knows no store and no HTTP.
"""
