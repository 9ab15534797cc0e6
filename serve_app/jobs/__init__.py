"""Documents that outlive their request: records in the store, a scheduler, and a runner that reads them.

May use the pipeline and below. Knows no HTTP and no dialect: `app` passes in the writers of dialects' results.
"""
