"""Models that come and go: a server process each, on demand. settings: what the gateway is told about it."""
