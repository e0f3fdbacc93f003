"""Command line, one file a command: check, generate, serve, bench, profile, ab; shared are `arguments`,
`trace_arguments` and `seeding` (flags of reading a trace, and of what seeds take).
"""
