"""Ollama's API in front of whatever upstream has the model. Read: requests, answers, listing, api."""
