"""One thin module for each API: it joins requests, the pipeline and responses, and decides nothing else."""
