"""The check of the documents' lines and words."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "check_prose.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_prose", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load()
LONG = "word " * 25


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("# Fine\n\nA rolling update.\n", []),
        (f"{LONG}\n", ["d.md:1"]),
        (f"\n| {LONG}| b |\n", ["d.md:2"]),
        (f"```bash\n{LONG}\n```\n", ["d.md:2"]),
        (f"```mermaid\n{LONG}\n```\n{LONG}\n", ["d.md:4"]),
        (f"{'x' * 200}\n", []),
        ("D is exchanged, and\nmade anew.\n", ["d.md:1", "d.md:2"]),
        ("`exchange(a)` stays, and so does\n```\nmade anew\n```\n", []),
        ("一" * 121 + " 二\n", ["d.md:1"]),
    ],
)
def test_long_lines_and_homemade_words_are_found_where_they_are(text: str, places: list[str]) -> None:
    assert [found.split(": ")[0] for found in check.findings("d.md", text)] == places


def test_this_projects_documents_pass() -> None:
    found = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
