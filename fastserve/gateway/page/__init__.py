"""The gateway's page. settings: what the gateway is told about it."""
