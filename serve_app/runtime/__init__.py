"""Building blocks of every process: memory, child processes, temporary files, calls to all replicas, log lines and spans.
Uses the operating system, Ray, OpenTelemetry and errors."""
