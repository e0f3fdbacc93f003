"""Bodies that can do an iteration of a Plan on a real device or pretend to: torch/ and scripted. They know
fastserve.engine.backend and never each other.
"""
