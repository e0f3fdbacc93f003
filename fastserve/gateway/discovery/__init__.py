"""Upstreams that are found by name: every address of a name is a server. Read: settings, part."""
