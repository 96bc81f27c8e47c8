"""Settings of all tests: property-based ones draw the same examples each time and are not judged by the clock."""

from hypothesis import settings

settings.register_profile("course", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("course")
