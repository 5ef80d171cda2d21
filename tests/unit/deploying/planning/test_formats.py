"""Plans for other tools, held against those tools' own schemas."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

from tests.unit.deploying.inventories import CPU_IMAGE, NPU_IMAGE, SITE, full, shipped
from yrpd.deploying.inventory import load_inventory
from yrpd.deploying.planning import formats as plans
from yrpd.deploying.planning.formats import compose, kubernetes, monitoring
from yrpd.deploying.planning.planner import plan
from yrpd.deploying.spec import ContainerSpec, docker_line
from yrpd.deploying.status.counters import NAMES
from yrpd.errors import ConfigurationError

SCHEMA = "1.37"


@pytest.fixture(params=["lab", "full", "hosts"])
def specs(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ContainerSpec, ...]:
    if request.param == "full":
        path = tmp_path / "full.toml"
        path.write_text(full(), encoding="utf-8")
        return plan(load_inventory(path), NPU_IMAGE, SITE)
    image = CPU_IMAGE if request.param == "lab" else NPU_IMAGE
    return plan(shipped(f"{request.param}.toml"), image, SITE)


def services(specs: tuple[ContainerSpec, ...]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (host, name): service
        for host in {spec.host for spec in specs}
        for name, service in compose.document([spec for spec in specs if spec.host == host])["services"].items()
    }


def test_every_hosts_compose_file_is_one_by_the_compose_specification(specs: tuple[ContainerSpec, ...]) -> None:
    files = plans.files("compose", "lab", specs)
    assert set(files) == {f"compose-{spec.host}.yaml" for spec in specs}
    for text in files.values():
        parsed = compose_spec.PyCompose.from_yaml(text)
        parsed.validate()
        assert parsed.service_names() == list(yaml.safe_load(text)["services"])


def test_the_compose_specification_refuses_a_misspelt_field(specs: tuple[ContainerSpec, ...]) -> None:
    text = plans.files("compose", "lab", specs)[f"compose-{specs[0].host}.yaml"]
    with pytest.raises(ValueError, match="netwrok_mode"):
        compose_spec.PyCompose.from_yaml(text.replace("network_mode", "netwrok_mode", 1)).validate()


def test_compose_runs_what_docker_run_runs(specs: tuple[ContainerSpec, ...]) -> None:
    found = services(specs)
    assert set(found) == {spec.key for spec in specs}
    for spec in specs:
        service = found[spec.key]
        assert [part.replace("$$", "$") for part in service["command"]] == list(spec.argv)
        assert {name: value.replace("$$", "$") for name, value in service.get("environment", {}).items()} == dict(
            spec.env
        )
        assert service.get("privileged", False) == spec.privileged
        binds = [each for each in service.get("volumes", []) if each["type"] == "bind"]
        assert [(each["source"], each["read_only"]) for each in binds] == [
            (mount.source, mount.read_only) for mount in spec.mounts
        ]
        assert not any(each["bind"]["create_host_path"] for each in binds)


def test_compose_says_what_must_run_elsewhere_first(specs: tuple[ContainerSpec, ...]) -> None:
    etcd = next(spec for spec in specs if spec.role == "etcd")
    for name, text in plans.files("compose", "lab", specs).items():
        assert (f"Start these first, on their hosts: {etcd.name}" in text) == (name != f"compose-{etcd.host}.yaml")


def test_every_manifest_is_one_by_kubernetes_own_schema(specs: tuple[ContainerSpec, ...]) -> None:
    text = plans.files("kubernetes", "lab", specs)["lab-kubernetes.yaml"]
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        kubernetes_validate.validate(document, SCHEMA, strict=True)
    assert [each["kind"] for each in documents] == ["Namespace", *["Deployment"] * len(specs), "Service"]


def test_kubernetes_schema_refuses_a_misspelt_field(specs: tuple[ContainerSpec, ...]) -> None:
    document = kubernetes.documents("lab", specs)[1]
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
        assert [part.replace("$$(", "$(") for part in container["command"]] == list(spec.argv)
        assert {volume["name"] for volume in pod["volumes"]} == {each["name"] for each in container["volumeMounts"]}
        assert container["startupProbe"]["failureThreshold"] * 5 >= spec.probe.deadline_s
        npus = [device for device in spec.devices if re.fullmatch(r"/dev/davinci\d+", device)]
        limits = container.get("resources", {}).get("limits", {})
        assert limits == ({"huawei.com/Ascend910": str(len(npus))} if npus else {})


def test_names_and_labels_fit_kubernetes_rules(specs: tuple[ContainerSpec, ...]) -> None:
    for document in kubernetes.documents("lab", specs):
        labels = document["metadata"].get("labels", {})
        for value in (document["metadata"]["name"], *labels.values()):
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", value)


def test_the_docker_lines_are_one_shell_word_after_another(specs: tuple[ContainerSpec, ...]) -> None:
    lines = plans.files("run", "lab", specs)["lab-run.sh"].splitlines()
    assert lines == [docker_line(spec) for spec in specs]
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
    texts = [text for name in ("run", "compose", "kubernetes") for text in plans.files(name, "lab", specs).values()]
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
    board = monitoring.dashboard("lab")
    expressions = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    ours = set(re.findall(r"yuanrong_(\w+?)_total", expressions))
    assert ours <= set(NAMES)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})
    assert json.loads(plans.files("monitoring", "lab", ())["lab-grafana-dashboard.json"]) == board


def test_an_unknown_format_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"no plan format 'helm'; there are: table, run, json, compose, kub"):
        plans.check_format("helm")
