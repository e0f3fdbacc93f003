"""Command line, one file a command: check, generate, serve, bench, profile, ab; `arguments` is shared."""
