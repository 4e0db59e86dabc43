"""Settings for every test."""

from hypothesis import settings

# Machines differ in speed and a first call imports: a test's time says nothing. Fixed examples, so
# that a red run is red again.
settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")
