"""Two or more real Docker hosts on one machine."""

from workshop.lab.commands import builder, down, up
from workshop.lab.layout import DEFAULT_LAB, named_lab, read_lab

__all__ = ["DEFAULT_LAB", "builder", "down", "named_lab", "read_lab", "up"]
