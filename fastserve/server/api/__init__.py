"""The routes and their words: native, openai, compat (names of other servers); each with its schema and format beside
it. dependencies is what all generating routes share, streaming and outbox carry tokens to a client that may leave.
"""
