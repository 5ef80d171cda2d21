"""The workshop's commands, which Invoke offers beside the product's."""

from __future__ import annotations

from workshop.tasks import bench, lab, patch

COMMANDS = (*bench.COMMANDS, *lab.COMMANDS, *patch.COMMANDS)
