"""The command line: `serve`, `key`, `models`, `check`. It may use every other room; nothing uses it."""
