"""vllm-ascend's own unit tests before and after the series: the same ones pass, and those that it adds."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from git import Repo

from tests.emulated_npu import upstream
from yrpd.project import Project, read_state
from yrpd.release import load_release

pytestmark = pytest.mark.emulated
BUILD_INFO = Path("vllm_ascend/_build_info.py")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, upstream.Outcome]]:
    """What became of the tests in the pinned tree and in the patched one, run side by side."""
    home, project = tmp_path_factory.mktemp("upstream"), Project.here()
    state = read_state(project, load_release(project.release_file).pin()[0])["patch"]
    patched = project.root / state["worktree"]
    archive = io.BytesIO()
    with Repo(patched) as repository:
        repository.archive(archive, state["base_tree"], format="tar")
    archive.seek(0)
    with tarfile.open(fileobj=archive) as opened:
        opened.extractall(home / "pinned", filter="data")
    shutil.copy(patched / BUILD_INFO, home / "pinned" / BUILD_INFO)
    trees = {"before": home / "pinned", "after": patched}
    with ThreadPoolExecutor(len(trees)) as pool:
        found = pool.map(lambda name: upstream.run(trees[name], home / f"{name}.xml"), trees)
        yield dict(zip(trees, found, strict=True))


def test_the_kept_list_is_what_the_pinned_tree_does(outcomes: dict[str, upstream.Outcome]) -> None:
    kept = upstream.expected()
    assert outcomes["before"].passed == kept.passed
    assert outcomes["before"].others == set(kept.others)


def test_the_same_tests_pass_after_the_series_but_for_those_that_it_changes(
    outcomes: dict[str, upstream.Outcome],
) -> None:
    before, after, kept = outcomes["before"], outcomes["after"], upstream.expected()
    assert after.passed - before.passed == kept.added
    assert before.passed - after.passed == kept.removed
    assert after.others == before.others
