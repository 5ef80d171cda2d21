"""The product's commands, one module a namespace: tables of name, options and the function that does the work."""

from __future__ import annotations

from yrpd.tasks import deploy, image, patch

COMMANDS = (*image.COMMANDS, *patch.COMMANDS, *deploy.COMMANDS)
