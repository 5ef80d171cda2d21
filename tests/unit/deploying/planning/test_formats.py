"""Plans for other tools, held against those tools' own schemas."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
from base64 import b64decode
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.unit.deploying.inventories import CPU_IMAGE, NPU_IMAGE, SITE, full, shipped
from yrpd.deploying.inventory import load_inventory
from yrpd.deploying.planning import formats as plans
from yrpd.deploying.planning.formats import kubernetes, monitoring
from yrpd.deploying.planning.planner import plan
from yrpd.deploying.spec import ContainerSpec, docker_line
from yrpd.deploying.status.counters import NAMES
from yrpd.errors import ConfigurationError
from yrpd.project import Project

SCHEMA = "1.37"


@pytest.fixture(params=["lab", "full", "hosts"])
def specs(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ContainerSpec, ...]:
    if request.param == "full":
        path = tmp_path / "full.toml"
        path.write_text(full(), encoding="utf-8")
        return plan(load_inventory(path), NPU_IMAGE, SITE)
    image = CPU_IMAGE if request.param == "lab" else NPU_IMAGE
    return plan(shipped(f"{request.param}.toml"), image, SITE)


def test_every_manifest_is_one_by_kubernetes_own_schema(specs: tuple[ContainerSpec, ...]) -> None:
    text = plans.files("kubernetes", "lab", specs)["lab-kubernetes.yaml"]
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        kubernetes_validate.validate(document, SCHEMA, strict=True)
    assert [each["kind"] for each in documents] == ["Namespace", "ConfigMap", *["Deployment"] * len(specs), "Service"]


def test_kubernetes_schema_refuses_a_misspelt_field(specs: tuple[ContainerSpec, ...]) -> None:
    document = kubernetes.documents("lab", specs)[2]
    document["spec"]["template"]["spec"]["hostNetwrok"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostNetwrok"):
        kubernetes_validate.validate(document, SCHEMA, strict=True)


def test_kubernetes_runs_the_same_commands_on_the_same_hosts(specs: tuple[ContainerSpec, ...]) -> None:
    deployments = [each for each in kubernetes.documents("lab", specs) if each["kind"] == "Deployment"]
    assert len({each["metadata"]["name"] for each in deployments}) == len(specs)
    for spec, document in zip(specs, deployments, strict=True):
        pod = document["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["nodeSelector"] == {"kubernetes.io/hostname": spec.host}
        assert [part.replace("$$(", "$(") for part in container["args"]] == list(spec.argv)
        assert {volume["name"] for volume in pod["volumes"]} == {each["name"] for each in container["volumeMounts"]}
        assert container["startupProbe"]["failureThreshold"] * 5 >= spec.probe.deadline_s
        npus = [device for device in spec.devices if re.fullmatch(r"/dev/davinci\d+", device)]
        limits = container.get("resources", {}).get("limits", {})
        assert limits == ({"huawei.com/Ascend910": str(len(npus))} if npus else {})


def test_files_that_are_read_again_come_as_a_config_map_and_none_of_them_is_a_path(
    specs: tuple[ContainerSpec, ...],
) -> None:
    found = [each for each in kubernetes.documents("lab", specs) if each["kind"] == "ConfigMap"]
    assert [(each["metadata"]["name"], sorted(each["data"])) for each in found] == [
        (specs[-1].name, ["decode.json", "prefill.json"])
    ]


def test_names_and_labels_fit_kubernetes_rules(specs: tuple[ContainerSpec, ...]) -> None:
    for document in kubernetes.documents("lab", specs):
        labels = document["metadata"].get("labels", {})
        for value in (document["metadata"]["name"], *labels.values()):
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", value)


def test_the_docker_lines_are_one_shell_word_after_another(specs: tuple[ContainerSpec, ...]) -> None:
    *lines, files, start = plans.files("run", "lab", specs)["lab-run.sh"].splitlines()
    assert lines == [docker_line(spec) for spec in specs]
    assert ("create" in shlex.split(lines[-1]), start.rpartition(" ")[2]) == (True, specs[-1].name)
    with tarfile.open(fileobj=io.BytesIO(b64decode(files.split()[1]))) as tar:
        there = {f"/{each.name}": tar.extractfile(each).read().decode() for each in tar}  # type: ignore[union-attr]
    assert there == dict(specs[-1].live)
    for spec, line in zip(specs, lines, strict=True):
        words = shlex.split(line)
        assert words[:2] == ["docker", "-H"]
        assert words[-len(spec.argv) :] == list(spec.argv)


def test_no_plan_holds_what_is_in_a_secret_file(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("correct-horse-battery\n")
    path = tmp_path / "hosts.toml"
    path.write_text(full().replace("/s/key", str(secret)).replace("/s/token", str(secret)))
    specs = plan(load_inventory(path), NPU_IMAGE, SITE)
    texts = [text for name in ("run", "kubernetes") for text in plans.files(name, "lab", specs).values()]
    texts.append(json.dumps([spec.document() for spec in specs]))
    assert all(str(secret) in text for text in texts if "VLLM_API_KEY" in text)
    assert not any("correct-horse-battery" in text for text in texts)


def test_prometheus_scrapes_what_has_metrics_where_it_answers(specs: tuple[ContainerSpec, ...]) -> None:
    found = {each["labels"]["name"]: each["targets"][0] for each in monitoring.targets(specs)}
    assert set(found) == {spec.name for spec in specs if spec.role != "worker"}
    for spec in specs:
        if spec.role != "worker":
            address, _, port = found[spec.name].partition(":")
            assert int(port) in spec.ports
            assert address in "".join(spec.argv)


def test_the_dashboard_asks_for_metrics_that_exist_and_places_every_panel_once() -> None:
    board = json.loads((Project.here().root / "docs" / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
    expressions = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    ours = set(re.findall(r"yuanrong_(\w+?)_total", expressions))
    assert ours <= set(NAMES)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})
    assert expressions.count('deployment="$deployment"') == len(re.findall(r"[a-z_]+\{", expressions))
    assert list(plans.files("monitoring", "lab", ())) == ["lab-prometheus-targets.json"]


def test_an_unknown_format_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"no plan format 'helm'; there are: table, run, json, kub"):
        plans.check_format("helm")
