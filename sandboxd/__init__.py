"""sandboxd runs container images, each in a microVM of its own."""

__version__ = "0.1.0"
