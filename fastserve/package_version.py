"""The version of this package, as it is installed."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Such as "0.3.0"; "0+unknown" in a checkout that is not installed."""
    try:
        return version("fastserve-testbed")
    except PackageNotFoundError:
        return "0+unknown"
