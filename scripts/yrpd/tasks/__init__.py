"""The commands that Invoke offers, one module a namespace: tables of name, options and the function that does the work.

Those of ``deploy`` are in its own room, since ``scripts/deploy.py`` and ``deploy.pyz`` offer them, too.
"""

from __future__ import annotations

from yrpd.deploying import command_table as deploy
from yrpd.tasks import bench, image, lab, patch

COMMANDS = (*image.COMMANDS, *bench.COMMANDS, *patch.COMMANDS, *lab.COMMANDS, *deploy.COMMANDS)
