"""The command line: `serve`, `doctor`, `key`, `settings`, `metrics`, `models`, `openapi`. May use every other room; none uses it."""
