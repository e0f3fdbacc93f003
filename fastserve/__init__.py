"""A testbed for LLM-serving schedulers: one brain, two bodies."""


def __getattr__(name: str) -> str:
    # importlib.metadata costs more to import than everything else here, and few ask for the version.
    if name == "__version__":
        from importlib.metadata import version

        return version("fastserve-testbed")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
