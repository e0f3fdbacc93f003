"""Conversations that the gateway keeps for clients that send only the new turn. settings: what it is told."""
