"""Durable jobs across machines: a queue that servers and gateways share. settings: what they are told about it."""
