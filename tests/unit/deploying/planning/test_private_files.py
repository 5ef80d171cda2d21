"""Keys, certificates and secrets: files of the hosts, whose contents no plan ever holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.deploying.inventories import NPU_IMAGE, SITE, full
from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.planning.planner import plan
from yrpd.deploying.spec import ContainerSpec, HttpProbe, Mount, docker_line


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    path = tmp_path / "full.toml"
    path.write_text(full(), encoding="utf-8")
    return load_inventory(path)


@pytest.fixture
def specs(inventory: Inventory) -> dict[str, ContainerSpec]:
    return {f"{spec.role}@{spec.host}": spec for spec in plan(inventory, NPU_IMAGE, SITE)}


def test_etcd_asks_for_certificates_and_is_healthy_without_one(specs: dict[str, ContainerSpec]) -> None:
    etcd = specs["etcd@one"]
    assert {"--client-cert-auth", "--peer-client-cert-auth"} <= set(etcd.argv)
    assert [part for part in etcd.argv if part.startswith("http://")] == ["http://10.0.0.1:22442"]
    assert etcd.probe == HttpProbe("http://10.0.0.1:22442/health", ('"health":"true"',), 60)
    assert etcd.ports == (22440, 22441, 22442)
    assert Mount("/e/key", "/run/secrets/key.pem") in etcd.mounts


def test_workers_spill_encrypt_and_show_etcd_their_own_certificate(specs: dict[str, ContainerSpec]) -> None:
    worker = specs["worker@two"]
    given = {part for before, part in zip(worker.argv, worker.argv[1:], strict=False) if before == "--flag"}
    assert given == {
        "curve_key_dir=/run/secrets/curve",
        "enable_curve_zmq=true",
        "enable_etcd_auth=true",
        "etcd_ca=/run/secrets/ca.pem",
        "etcd_cert=/run/secrets/certificate.pem",
        "etcd_key=/run/secrets/key.pem",
        "log_dir=/run/yuanrong/uds/log",
        "spill_directory=/var/lib/yuanrong-spill",
        f"spill_size_limit={2048 * 1024 * 1024}",
        "spill_thread_num=4",
    }
    assert Mount("/fast/spill", "/var/lib/yuanrong-spill", read_only=False) in worker.mounts
    assert Mount("/e/ckey", "/run/secrets/key.pem") in worker.mounts
    assert "/e/key" not in {mount.source for mount in worker.mounts}


def test_prefill_and_decode_read_one_key_out_of_one_file(specs: dict[str, ContainerSpec]) -> None:
    for name in ("prefill@one", "decode@two"):
        spec = specs[name]
        assert spec.argv[:3] == ("python3", "-m", "yrpd.serving.secrets")
        assert "VLLM_API_KEY=/run/secrets/vllm_api_key" in spec.argv[: spec.argv.index("--")]
        assert Mount("/s/key", "/run/secrets/vllm_api_key") in spec.mounts
    assert specs["prefill@one"].argv[specs["prefill@one"].argv.index("--") + 1] == "vllm"


def test_a_guarded_vllm_is_probed_where_no_key_is_asked(specs: dict[str, ContainerSpec]) -> None:
    probe = specs["decode@two"].probe
    assert isinstance(probe, HttpProbe)
    assert probe.url.endswith("/health")


def test_the_connector_finds_its_keys_by_the_names_of_their_files(specs: dict[str, ContainerSpec]) -> None:
    environment = dict(specs["prefill@one"].env)
    assert environment["YUANRONG_DS_CLIENT_PRIVATE_KEY_FILE"] == "/run/secrets/client_private_key"
    assert Mount("/cpriv", "/run/secrets/client_private_key") in specs["prefill@one"].mounts


def test_an_instances_own_settings_win_and_stay_its_own(specs: dict[str, ContainerSpec]) -> None:
    prefill, decode = specs["prefill@one"], specs["decode@two"]
    assert prefill.argv[prefill.argv.index("--seed") + 1] == "7"
    assert decode.argv[decode.argv.index("--seed") + 1] == "0"
    assert dict(decode.env)["ONLY"] == "here"
    assert "ONLY" not in dict(prefill.env)


def test_replicas_and_experts_reach_vllm_and_take_their_npus(specs: dict[str, ContainerSpec]) -> None:
    prefill = specs["prefill@one"]
    assert prefill.argv[prefill.argv.index("--data-parallel-size") + 1] == "2"
    assert "--enable-expert-parallel" in prefill.argv
    assert {"/dev/davinci0", "/dev/davinci1"} < set(prefill.devices)
    assert "--data-parallel-size" not in specs["decode@two"].argv


def test_named_devices_are_taken_as_named(specs: dict[str, ContainerSpec]) -> None:
    assert specs["decode@two"].devices[0] == "/dev/davinci6"


def test_privileges_and_restarts_are_what_the_inventory_says(specs: dict[str, ContainerSpec]) -> None:
    assert "--privileged" in docker_line(specs["prefill@one"])
    assert "--privileged" not in docker_line(specs["endpoint@one"])
    assert "--restart on-failure:5" in docker_line(specs["etcd@one"])


def test_no_content_of_a_secret_file_is_in_a_plan(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("correct-horse-battery\n")
    path = tmp_path / "hosts.toml"
    path.write_text(full().replace("/s/key", str(secret)))
    specs = plan(load_inventory(path), NPU_IMAGE, SITE)
    assert str(secret) in json.dumps([spec.document() for spec in specs])
    assert "correct-horse-battery" not in json.dumps([[spec.document(), spec.labels] for spec in specs])
