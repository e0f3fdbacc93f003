"""The version of this package, as it is installed."""

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "0+unknown"
"""Of a checkout that is not installed."""


def package_version() -> str:
    """Such as "0.3.0"; else UNKNOWN."""
    try:
        return version("fastserve-testbed")
    except PackageNotFoundError:
        return UNKNOWN
