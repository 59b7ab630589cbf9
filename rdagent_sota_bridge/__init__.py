"""Trains RD-Agent's models on the factors that its factor loops accepted, and proves it."""

__version__ = "0.1.0"
