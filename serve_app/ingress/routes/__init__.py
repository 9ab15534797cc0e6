"""One thin module per API. A route joins requests, the pipeline and responses, and decides nothing else."""
