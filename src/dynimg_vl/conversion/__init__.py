"""Make DynImg models out of pretrained vision-language models that have the same parts."""

from .convert import convert

__all__ = ["convert"]
