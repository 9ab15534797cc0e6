"""Building blocks of every process: memory, child processes, temporary files. Uses the operating system and errors."""
