"""What every process of ours is built from: memory, child processes, temporary files.

Knows the operating system and errors.
"""
