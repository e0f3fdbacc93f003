"""Settings that every test shares."""

from hypothesis import settings

# No test may depend on how fast the machine is; a failure prints what reproduces it.
settings.register_profile("fastserve", deadline=None, print_blob=True)
settings.load_profile("fastserve")
