"""``invoke doctor`` where little is right: it goes on after what is wrong, and all is in its archive."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from yrpd.commands.doctor import _found, doctor
from yrpd.deploying.preflight.findings import Finding
from yrpd.errors import EnvironmentFailure
from yrpd.project import Project
from yrpd.reporting import Reporter

HERE = Project.here()


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """An inventory whose engines do not answer."""
    text = (HERE.root / "lab.toml").read_text(encoding="utf-8")
    path = tmp_path / "hosts.toml"
    path.write_text(text.replace("/run/yrpd-lab/", f"{tmp_path}/no-lab/"), encoding="utf-8")
    return path


def test_everything_is_looked_at_and_each_problem_names_its_remedy(hosts: Path, tmp_path: Path) -> None:
    saved = tmp_path / "report.tar.gz"
    with pytest.raises(EnvironmentFailure, match="things are wrong") as caught:
        doctor(HERE, Reporter(), hosts, "cpu", save=str(saved))
    document = caught.value.document
    assert document is not None
    assert list(document["looked_at"]) == [
        "series and pin", "patched tree", "this machine's engine", "hosts", "containers",
    ]  # fmt: skip
    wrong = {each["looked_at"] for each in document["problems"]}
    assert "hosts" in wrong
    assert all(each["problem"] and each["fix"] for each in document["problems"])
    with tarfile.open(saved) as tar:
        members = {Path(name).name: name for name in tar.getnames()}
        assert set(members) == {"doctor.json", "hosts.toml"} | ({"verify.json"} & set(members))
        stream = tar.extractfile(members["doctor.json"])
        assert stream is not None
        assert json.load(stream)["problems"] == document["problems"]


def test_an_inventory_that_cannot_be_read_is_a_problem_like_others(tmp_path: Path) -> None:
    missing = tmp_path / "no.toml"
    with pytest.raises(EnvironmentFailure) as caught:
        doctor(HERE, Reporter(), missing, "cpu", save=str(tmp_path / "x.tar.gz"))
    assert caught.value.document is not None
    assert caught.value.document["saved"] == ""
    assert {"hosts", "logs"} <= {each["looked_at"] for each in caught.value.document["problems"]}


def test_a_dry_run_only_says_what_it_would_look_at(hosts: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert doctor(HERE, Reporter(), hosts, "cpu", save=str(tmp_path / "x"), dry_run=True)["state"] == "planned"
    assert sorted(tmp_path.rglob("*")) == before


def test_findings_are_problems_and_a_plans_containers_are_not() -> None:
    finding = Finding("device-permission", "host1", "it may not open /dev/davinci0", "add the group")
    plan = {"containers": [{"name": "yrpd-etcd"}], "findings": [finding.document()]}
    assert _found(plan) == [{"problem": "host1: it may not open /dev/davinci0", "fix": "add the group"}]
    here = {"name": "yrpd-etcd", "host": "host1", "state": "running", "health": "healthy"}
    gone = {"name": "yrpd-endpoint", "host": "host1", "state": "absent", "health": "absent"}
    assert _found({"containers": [gone]}) == [], "nothing was deployed"
    assert _found({"containers": [here, gone]}) == [
        {"problem": "yrpd-endpoint on host1 is absent", "fix": "invoke deploy"}
    ]
