"""The command line: `serve`, `key`, `settings`, `metrics`, `models`, `openapi`. May use every other room; none uses it."""
