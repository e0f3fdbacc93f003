"""A cache of answers. settings: what the gateway is told about it."""
