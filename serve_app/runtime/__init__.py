"""Building blocks of every process: memory, child processes, temporary files, calls to all replicas. Uses the
operating system, Ray and errors."""
