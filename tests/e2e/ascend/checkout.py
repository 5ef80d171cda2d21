"""A checkout of its own for the npu flavour, whose base is the stand-in: the commands are typed in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.e2e.running import INVOKE, ROOT, Run, command

NAME = 'name = "vllm-ascend-yuanrong"'
CANN = 'cann = "8.2.RC1"'
_PARTS = ("scripts", "patches", "connector_src", "docker", "tasks.py", "requirements.lock", "release.toml")


class Checkout:
    """The folder of it.

    Args:
        root: Where it is made.
        cache: What is downloaded once for all checkouts.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self._environment = {"YRPD_FLAVOUR": "npu", "YRPD_CACHE": str(cache)}
        root.mkdir()
        for name in _PARTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, root / name)

    def edit(self, old: str, new: str) -> None:
        """Change what stands once in ``release.toml``."""
        file = self.root / "release.toml"
        text = file.read_text()
        assert text.count(old) == 1, f"{old} stands {text.count(old)} times in release.toml"
        file.write_text(text.replace(old, new))

    def invoke(self, *arguments: str, **variables: str) -> Run:
        """Run Invoke tasks in it, with more environment variables."""
        return command(INVOKE, *arguments, environment=self._environment | variables, cwd=self.root)
