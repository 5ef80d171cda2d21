"""The commands: ``invoke --list`` names them, ``invoke --help TASK`` explains one.

The logic is in scripts/yrpd/ and scripts/workshop/.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(_ROOT / "scripts"))

from yrpd.interpreter import require_environment_or_exit

require_environment_or_exit(_ROOT)

from workshop.tasks import COMMANDS as WORKSHOP
from yrpd.tasks.declaring import COMMANDS, collection

ns = collection((*COMMANDS, *WORKSHOP))
