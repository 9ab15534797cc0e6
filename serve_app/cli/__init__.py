"""The command line: `serve`, `key`, `settings`, `models`, `openapi`. May use every other room; none uses it."""
