"""vllm-ascend's own unit tests of the files that the series touches, as they stand in the patched tree.

Their common base loads the NPU's operators, which this environment does not have; the scheduler's tests use none of
them, so only that base is replaced.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import types
import unittest
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["test_scheduler", "test_schedule_config"])
def test_upstream_unit_tests_pass_in_the_patched_tree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm_ascend

    base = types.ModuleType("tests.ut.base")
    base.TestBase = unittest.TestCase  # type: ignore[attr-defined]
    platform = types.ModuleType("vllm_ascend.utils")
    platform.vllm_version_is = lambda version: version == "0.10.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests.ut.base", base)
    monkeypatch.setitem(sys.modules, "vllm_ascend.utils", platform)

    path = Path(vllm_ascend.__file__).parents[1] / "tests" / "ut" / "core" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"upstream_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    log = io.StringIO()
    result = unittest.TextTestRunner(stream=log).run(unittest.defaultTestLoader.loadTestsFromModule(module))
    assert result.wasSuccessful(), log.getvalue()
    assert result.testsRun > 5
    assert not result.skipped
