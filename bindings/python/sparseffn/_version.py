"""Version of this package; tests/python checks that include/sparseffn/version.h says the same."""

__version__ = "0.1.0"
