"""The command line: each verb checks its words, calls one library function, and prints the result."""

from .app import main

__all__ = ["main"]
