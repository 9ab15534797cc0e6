"""Documents that outlive their request: records in the store, a queue, the runner that reads them.

May use the pipeline and below; knows no HTTP and no dialect.
"""
