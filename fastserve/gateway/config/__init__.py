"""GatewayConfig. Read: settings, places (upstreams as they are written), dialect (environment and files)."""
