"""Conversations that the gateway keeps for clients that send only the new turn.

Read: settings, history, store, turns, collected, kept, conversations, api; redis_store where gateways share them.
"""
