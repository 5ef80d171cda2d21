"""The contracts in pyproject.toml that say who may import whom: each is kept, and each can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from yrpd.project import Project

ROOT = Project.here().root
#: A file, and an import that one contract forbids there.
VIOLATIONS = {
    "The workshop stands on the product": ("yrpd/building/elf.py", "import workshop.lab.layout"),
    "Stages meet in documents": ("yrpd/releasing/sbom.py", "import yrpd.building.elf"),
    "The rooms of deploying": ("yrpd/deploying/planning/ports.py", "import yrpd.deploying.status.metrics"),
    "GitPython is known": ("yrpd/building/develop.py", "import git"),
    "The Docker SDK is known": ("yrpd/deploying/rollout/drain.py", "import docker"),
    "No package imports another in a circle": ("workshop/lab/lab_record.py", "import workshop.faults.fault_table"),
}
SERVING = ("yrpd/serving/draining.py", "import yrpd.errors")


def check(scripts: Path) -> tuple[int, str]:
    words = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", str(ROOT / "pyproject.toml")]
    done = subprocess.run(words, env={"PYTHONPATH": str(scripts)}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_every_contract_is_kept() -> None:
    code, said = check(ROOT / "scripts")
    assert code == 0, said
    assert all(f"{name}" in said for name in VIOLATIONS)


def test_every_contract_can_fail(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name, line in (*VIOLATIONS.values(), SERVING):
        path = tmp_path / "scripts" / name
        path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    code, said = check(tmp_path / "scripts")
    assert code == 1
    for name in VIOLATIONS:
        assert re.search(rf"^{re.escape(name)}.* BROKEN$", said, re.M), name
    assert "yrpd.serving.draining -> yrpd.errors" in said


def test_the_product_does_not_even_name_the_workshop() -> None:
    """Commands are named as text, which no contract on imports sees."""
    files = [*(ROOT / "scripts" / "yrpd").rglob("*.py")]
    assert files
    assert [path for path in files if "workshop" in path.read_text(encoding="utf-8")] == []
