#!/usr/bin/env python3
"""The deployment commands without Invoke, for a host that has only Python and this project's folder.

``python3 scripts/deploy.py --hosts hosts.toml`` is ``invoke deploy``; ``... status`` is ``invoke deploy.status``.
Hosts that have only a release folder use the ``deploy.pyz`` in it: it is the same, with all that it needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(_SCRIPTS))

from yrpd.environment import require_environment_or_exit

require_environment_or_exit(_SCRIPTS.parent)

from yrpd.commands.front import main
from yrpd.project import Project

if __name__ == "__main__":
    main(Project.here(), "python3 scripts/deploy.py")
