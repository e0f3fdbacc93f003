"""Our Scheduler inside vLLM's: made-up runner, random cases, stand-ins for vLLM's classes where it is not installed."""
