"""The workshop's commands, which Invoke offers beside the product's."""

from __future__ import annotations

from workshop.tasks import bench, lab

COMMANDS = (*bench.COMMANDS, *lab.COMMANDS)
