"""Diffusion models from scratch: rooms that import one way, each of one concern (README, "The tree")."""

__version__ = "0.2.0"
