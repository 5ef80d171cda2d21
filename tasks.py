"""The commands: ``invoke --list`` names them, ``invoke --help TASK`` explains one. All logic is in scripts/yrpd/."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke import Collection

_ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(_ROOT / "scripts"))

from yrpd.environment import require_environment_or_exit

require_environment_or_exit(_ROOT)

from yrpd.tasks import bench, deploy, image, lab, patch

ns = Collection(
    image.build,
    Collection("bench", bench.measure, bench.dataset, bench.report),
    Collection(
        "patch",
        patch.apply,
        patch.check,
        patch.export,
        patch.lint,
        patch.status,
        patch.rebase,
        patch.resume,
        patch.abort,
        patch.matrix,
        patch.figures,
    ),
    Collection("image", image.make, image.lock, image.save, image.load, image.push, image.verify, image.inspect),
    Collection("lab", lab.up, lab.down, lab.builder, lab.faults),
    Collection(
        "deploy",
        deploy.rollout,
        deploy.plan,
        deploy.status,
        deploy.logs,
        deploy.verify,
        deploy.rollback,
        deploy.clean,
    ),
)
