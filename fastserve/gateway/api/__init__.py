"""Routes of the gateway's core: generate (what goes to an upstream), monitor (what is known), admin (/gateway/...)."""
