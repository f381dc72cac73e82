"""MCR, a multicast relay for Linux."""

__version__ = "0.1.0"
