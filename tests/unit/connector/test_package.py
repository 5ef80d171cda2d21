"""The package is importable with none of the heavy libraries, and touches none of them at import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "connector_src"

_CODE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torch_npu", "vllm", "yr", "prometheus_client"}:
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
import yuanrong
for module in ("config", "keys", "layout", "metadata", "metrics", "recovery", "scheduler", "transport", "worker",
               "transport.base", "transport.breaker", "transport.host", "transport.npu"):
    __import__(f"yuanrong.{module}")
"""


def test_nothing_heavy_is_imported() -> None:
    subprocess.run([sys.executable, "-c", _CODE], check=True, env={"PYTHONPATH": str(SOURCE)})


def test_imports_inside_the_package_are_relative() -> None:
    for path in SOURCE.rglob("*.py"):
        assert "import yuanrong" not in path.read_text(), path
        assert "from yuanrong" not in path.read_text(), path
