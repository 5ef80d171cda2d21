"""The plan: a pure function of inventory, image and site."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.deploying.inventories import CPU_IMAGE, GOOD, NPU_IMAGE, SITE, shipped
from yrpd.deploying.inventory import Connector, EndpointTls, Inventory, Secrets, load_inventory
from yrpd.deploying.planning.placement import bound_cores
from yrpd.deploying.planning.planner import Site, plan, reference
from yrpd.deploying.spec import ContainerSpec, FileProbe, HttpProbe, Mount, docker_line
from yrpd.documents.image_record import ImageRecord
from yrpd.errors import ConfigurationError
from yrpd.serving import cluster, pairing
from yrpd.serving.envoy import Settings


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    path = tmp_path / "good.toml"
    path.write_text(GOOD, encoding="utf-8")
    return load_inventory(path)


def only(specs: tuple[ContainerSpec, ...], role: str, host: str = "") -> ContainerSpec:
    (found,) = [spec for spec in specs if spec.role == role and host in ("", spec.host)]
    return found


def option(spec: ContainerSpec, name: str) -> str:
    return spec.argv[spec.argv.index(name) + 1]


def test_two_hosts_get_seven_containers_in_start_order(inventory: Inventory) -> None:
    assert [(spec.host, spec.role) for spec in plan(inventory, CPU_IMAGE, SITE)] == [
        ("one", "etcd"),
        ("one", "worker"),
        ("two", "worker"),
        ("one", "prefill"),
        ("two", "decode"),
        ("one", "endpoint"),
    ]


def test_prefill_produces_and_decode_consumes_through_the_worker_of_their_own_host(inventory: Inventory) -> None:
    specs = plan(inventory, CPU_IMAGE, SITE)
    configs = {role: json.loads(option(only(specs, role), "--kv-transfer-config")) for role in ("prefill", "decode")}
    assert {role: config["kv_role"] for role, config in configs.items()} == {
        "prefill": "kv_producer",
        "decode": "kv_consumer",
    }
    assert configs["prefill"]["kv_connector_extra_config"]["worker_address"] == "10.0.0.1:31501"
    assert configs["decode"]["kv_connector_extra_config"]["worker_address"] == "10.0.0.2:31501"
    assert configs["prefill"]["kv_connector_module_path"] == "vllm_ascend.distributed.yuanrong"


def test_what_names_a_block_does_not_depend_on_the_image_or_on_who_can_read_the_model(inventory: Inventory) -> None:
    def transfers(image: ImageRecord, site: Site) -> set[str]:
        specs = plan(inventory, image, site)
        return {option(only(specs, role), "--kv-transfer-config") for role in ("prefill", "decode")}

    rebuilt = replace(CPU_IMAGE, reference="yrpd:2-cpu", id="sha256:" + "e" * 64, tree="f" * 40)
    assert transfers(CPU_IMAGE, SITE) == transfers(rebuilt, SITE)
    assert all("tag" not in json.loads(each)["kv_connector_extra_config"] for each in transfers(CPU_IMAGE, SITE))


def test_what_a_container_reads_is_a_label_and_no_part_of_its_configuration(inventory: Inventory) -> None:
    spec = only(plan(inventory, CPU_IMAGE, SITE), "prefill")
    told = replace(spec, reads="d" * 64)
    assert told.digest == spec.digest
    assert told.labels == {**spec.labels, "io.yuanrong.yrpd.reads": "d" * 64}
    assert ContainerSpec.from_document(told.document()) == told


def test_folders_of_adapters_come_in_under_their_own_path(inventory: Inventory) -> None:
    named = [
        "a=/srv/a",
        {"name": "b", "path": "/srv/b"},
        '{"name": "c", "path": "/srv/b"}',
        "d=/models/tiny/d",
        "e=hub/e",
    ]
    model = inventory.model.model_copy(update={"options": {"lora-modules": named}})
    specs = plan(inventory.model_copy(update={"model": model}), CPU_IMAGE, SITE)
    own = (Mount("/srv/models/tiny", "/models/tiny"), Mount("/srv/a", "/srv/a"), Mount("/srv/b", "/srv/b"))
    assert {only(specs, role).mounts for role in ("prefill", "decode")} == {own}
    one = inventory.prefill[0].model_copy(update={"options": {"lora-modules": "f=/srv/f"}})
    specs = plan(inventory.model_copy(update={"prefill": (one,)}), CPU_IMAGE, SITE)
    assert Mount("/srv/f", "/srv/f") in only(specs, "prefill").mounts
    assert Mount("/srv/f", "/srv/f") not in only(specs, "decode").mounts


def test_an_operators_own_names_reach_the_connector(inventory: Inventory) -> None:
    named = inventory.model_copy(update={"connector": Connector(tag="blue", weights_id="v7", reset_forgets=False)})
    config = json.loads(option(only(plan(named, CPU_IMAGE, SITE), "decode"), "--kv-transfer-config"))
    extra = config["kv_connector_extra_config"]
    assert (extra["tag"], extra["weights_id"], extra["reset_forgets"]) == ("blue", "v7", False)
    with pytest.raises(ValueError, match="weights_id"):
        Connector(weights_id="a b")


def test_worker_and_vllm_of_a_host_share_one_volume_at_one_path(inventory: Inventory) -> None:
    specs = plan(inventory, CPU_IMAGE, SITE)
    for host in ("one", "two"):
        volumes = {spec.volumes for spec in specs if spec.host == host and spec.role in ("worker", "prefill", "decode")}
        ((volume,),) = volumes
        assert option(only(specs, "worker", host), "--sockets") == volume.target
        assert len(volume.target) < 80


def test_the_connectors_settings_reach_prefill_and_decode_alike(inventory: Inventory) -> None:
    patient = inventory.model_copy(update={"connector": Connector(lookup_timeout_ms=7, checksum="crc32")})
    for role in ("prefill", "decode"):
        config = json.loads(option(only(plan(patient, CPU_IMAGE, SITE), role), "--kv-transfer-config"))
        extra = config["kv_connector_extra_config"]
        assert (extra["lookup_timeout_ms"], extra["checksum"], len(extra)) == (7, "crc32", 4)
        # Where the worker beside it writes the figures of its tiers, in the volume that both have.
        assert extra["worker_resource_log"] == "/run/yuanrong/uds/log/resource.log"


def test_nothing_is_privileged_and_few_capabilities_are_kept(inventory: Inventory) -> None:
    for spec in plan(inventory, CPU_IMAGE, SITE):
        line = docker_line(spec)
        assert "--privileged" not in line
        assert "--cap-drop ALL" in line
        kept = {"prefill": ("DAC_READ_SEARCH",), "decode": ("DAC_READ_SEARCH",), "worker": ("SYS_NICE",)}
        assert spec.capabilities == kept.get(spec.role, ())
        assert not [mount for mount in spec.mounts if not mount.read_only]


def test_what_needs_no_device_and_no_file_of_the_host_runs_as_nobody(inventory: Inventory) -> None:
    users = {spec.role: spec.user for spec in plan(inventory, CPU_IMAGE, SITE)}
    nobody = "65534:65534"
    assert users == {
        "etcd": nobody, "endpoint": nobody, "worker": "", "prefill": "", "decode": ""
    }  # fmt: skip
    specs = plan(inventory, CPU_IMAGE, SITE)
    assert f"--user {nobody}" in docker_line(only(specs, "etcd"))
    ((_, options),) = only(specs, "endpoint").tmpfs
    assert "uid=65534,gid=65534" in options
    keyed = inventory.model_copy(update={"secrets": inventory.secrets.model_copy(update={"vllm_api_key": "/root/key"})})
    # The host's root alone may read a key.
    assert only(plan(keyed, CPU_IMAGE, SITE), "endpoint").user == ""
    assert only(plan(keyed, CPU_IMAGE, SITE), "etcd").user == nobody


def test_a_record_from_before_there_were_users_is_read(inventory: Inventory) -> None:
    worker = only(plan(inventory, CPU_IMAGE, SITE), "worker", "one")
    document = worker.document()
    del document["user"]
    assert ContainerSpec.from_document(document) == worker


def test_the_cpu_flavour_gives_prefill_and_decode_a_core_each(inventory: Inventory) -> None:
    specs = plan(inventory, CPU_IMAGE, SITE)
    bound = [dict(only(specs, role).env)["VLLM_CPU_OMP_THREADS_BIND"] for role in ("prefill", "decode")]
    assert bound == ["0", "1"]
    single = plan(inventory, CPU_IMAGE, Site("/srv/models/tiny", 1))
    assert dict(only(single, "decode").env)["VLLM_CPU_OMP_THREADS_BIND"] == "0"


def test_the_cpu_flavour_keeps_the_ascend_plugin_out_and_the_network_silent(inventory: Inventory) -> None:
    environment = dict(only(plan(inventory, CPU_IMAGE, SITE), "prefill").env)
    assert environment["VLLM_PLUGINS"] == ""
    assert environment["VLLM_USE_V1"] == environment["HF_HUB_OFFLINE"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["TZ"] == "UTC"
    assert environment["PROMETHEUS_MULTIPROC_DIR"] in dict(only(plan(inventory, CPU_IMAGE, SITE), "prefill").tmpfs)


def test_the_model_is_the_same_string_everywhere_and_mounted_read_only(inventory: Inventory) -> None:
    specs = plan(inventory, CPU_IMAGE, SITE)
    prefill, decode = only(specs, "prefill"), only(specs, "decode")
    assert prefill.argv[2] == decode.argv[2] == "/models/tiny"
    assert prefill.mounts == decode.mounts == (Mount("/srv/models/tiny", "/models/tiny"),)


def test_every_container_says_how_its_readiness_is_asked(inventory: Inventory) -> None:
    specs = plan(inventory, CPU_IMAGE, SITE)
    assert only(specs, "etcd").probe == HttpProbe("http://10.0.0.1:22440/health", ('"health":"true"',), 60)
    assert isinstance(only(specs, "worker", "two").probe, FileProbe)
    assert only(specs, "decode").probe == HttpProbe("http://10.0.0.2:8200/v1/models", ('"id":"tiny"',), 900)
    endpoint = only(specs, "endpoint").probe
    assert isinstance(endpoint, HttpProbe)
    assert endpoint.url.endswith("/readiness")
    assert "cluster.decode.membership_healthy: 1\n" in endpoint.contains, "and not 10"


def test_an_instance_more_changes_no_container_but_a_file_that_the_endpoint_reads_again(inventory: Inventory) -> None:
    second = inventory.decode[0].model_copy(update={"port": 8201})
    more = inventory.model_copy(update={"decode": (*inventory.decode, second)})
    before, after = ({spec.key: spec for spec in plan(each, CPU_IMAGE, SITE)} for each in (inventory, more))
    assert [key for key in before if before[key].digest != after[key].digest] == []
    files = dict(after["one", "lab-endpoint"].live)
    assert {path for path, text in files.items() if "10.0.0.2" in text and "8201" in text} == {
        "/var/lib/yuanrong/endpoint/decode.json"
    }
    assert dict(before["one", "lab-endpoint"].live).keys() == files.keys()


def test_a_d_finds_the_endpoints_door_for_it_and_a_p_finds_none(inventory: Inventory) -> None:
    specs = plan(inventory, CPU_IMAGE, SITE)
    told = pairing.Settings.from_text(dict(only(specs, "decode").env)[pairing.VARIABLE])
    assert told == pairing.Settings("http://10.0.0.1:9001", decode_alone=False, retry_after_s=5)
    assert 9001 in only(specs, "endpoint").ports
    assert pairing.VARIABLE not in dict(only(specs, "prefill").env)
    alone = inventory.model_copy(update={"endpoint": inventory.endpoint.model_copy(update={"decode_alone": True})})
    environment = dict(only(plan(alone, CPU_IMAGE, SITE), "decode").env)
    assert pairing.Settings.from_text(environment[pairing.VARIABLE]).decode_alone


def test_services_listen_on_their_hosts_own_address_only(inventory: Inventory) -> None:
    for spec in plan(inventory, CPU_IMAGE, SITE):
        assert "0.0.0.0" not in docker_line(spec)


def test_the_ascend_scheduler_is_chosen_with_recovery(inventory: Inventory) -> None:
    chosen = inventory.model_copy(update={"scheduler": "ascend"})
    name = option(only(plan(chosen, CPU_IMAGE, SITE), "decode"), "--scheduler-cls")
    assert name == "vllm_ascend.distributed.yuanrong.recovery.RecoveringAscendScheduler"
    assert "--additional-config" not in only(plan(chosen, CPU_IMAGE, SITE), "decode").argv


def test_vllm_ascend_gets_the_class_where_it_reads_it_beside_what_the_inventory_sets_there() -> None:
    shared = shipped("hosts.toml")
    given = {"additional-config": {"refresh": True, "ascend_scheduler_config": {"max_long_partial_prefills": 2}}}
    model = shared.model.model_copy(update={"options": given})
    chosen = shared.model_copy(update={"scheduler": "ascend", "model": model})
    for role in ("prefill", "decode"):
        assert json.loads(option(only(plan(chosen, NPU_IMAGE, SITE), role), "--additional-config")) == {
            "refresh": True,
            "ascend_scheduler_config": {
                "enabled": True,
                "max_long_partial_prefills": 2,
                "scheduler_cls": "vllm_ascend.distributed.yuanrong.recovery.RecoveringAscendScheduler",
            },
        }


def test_npus_are_handed_out_in_order_with_the_driver() -> None:
    specs = plan(shipped("hosts.toml"), NPU_IMAGE, Site("/workspace/models/qwen2.5_7B", 2))
    prefill = only(specs, "prefill")
    assert prefill.devices == ("/dev/davinci0", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
    assert dict(prefill.env)["ASCEND_RT_VISIBLE_DEVICES"] == "0"
    assert Mount("/usr/local/dcmi", "/usr/local/dcmi") in prefill.mounts
    assert prefill.groups == (1000,)
    assert "--group-add 1000" in docker_line(prefill)
    assert only(specs, "worker", "host1").groups == ()
    assert "--enforce-eager" not in prefill.argv
    assert "kv_connector_module_path" not in option(prefill, "--kv-transfer-config")
    assert only(specs, "endpoint").devices == ()


def test_a_container_numbers_its_npus_from_0_unless_it_sees_those_of_the_host() -> None:
    inventory = shipped("hosts.toml")
    second = inventory.prefill[0].model_copy(update={"port": 8101, "tensor_parallel": 2})
    two = inventory.model_copy(update={"prefill": (*inventory.prefill, second)})
    seen = {}
    for privileged in (False, True):
        containers = two.containers.model_copy(update={"privileged": privileged})
        specs = plan(two.model_copy(update={"containers": containers}), NPU_IMAGE, Site("/models/m", 2))
        spec = next(each for each in specs if each.name.endswith("prefill-1"))
        assert spec.devices[:2] == ("/dev/davinci1", "/dev/davinci2")
        seen[privileged] = dict(spec.env)["ASCEND_RT_VISIBLE_DEVICES"]
    assert seen == {False: "0,1", True: "1,2"}


def test_too_few_npus_are_refused_by_name() -> None:
    inventory = shipped("hosts.toml")
    hosts = (inventory.hosts[0].model_copy(update={"devices": ()}), inventory.hosts[1])
    with pytest.raises(ConfigurationError, match=r"prefill\.0 needs 1 NPU\(s\) on host1"):
        plan(inventory.model_copy(update={"hosts": hosts}), NPU_IMAGE, SITE)


def test_plain_vllm_has_neither_connector_nor_cache_nor_our_scheduler(inventory: Inventory) -> None:
    spec = reference(inventory, CPU_IMAGE, SITE, 8300)
    assert spec.role == "reference"
    assert not {"--kv-transfer-config", "--scheduler-cls", "--enable-prefix-caching"} & set(spec.argv)
    assert "--no-enable-prefix-caching" in spec.argv
    assert spec.volumes == ()
    assert spec.argv[2] == "/models/tiny"
    assert option(spec, "--dtype") == "float32"


def test_plain_vllm_gets_an_npu_that_no_instance_uses() -> None:
    spec = reference(shipped("hosts.toml"), NPU_IMAGE, SITE, 8300)
    assert spec.devices[0] == "/dev/davinci1"
    inventory = shipped("hosts.toml")
    full = tuple(host.model_copy(update={"devices": (0,)}) for host in inventory.hosts)
    with pytest.raises(ConfigurationError, match="no host has them"):
        reference(inventory.model_copy(update={"hosts": full}), NPU_IMAGE, SITE, 8300)


def test_the_same_inventory_gives_the_same_plan(inventory: Inventory) -> None:
    assert plan(inventory, CPU_IMAGE, SITE) == plan(inventory, CPU_IMAGE, SITE)


def test_a_digest_changes_with_what_runs_and_not_with_how_long_one_waits(inventory: Inventory) -> None:
    before = {spec.key: spec.digest for spec in plan(inventory, CPU_IMAGE, SITE)}
    patient = inventory.model_copy(update={"deadlines": inventory.deadlines.model_copy(update={"vllm": 1})})
    assert {spec.key: spec.digest for spec in plan(patient, CPU_IMAGE, SITE)} == before
    router = inventory.model_copy(update={"router": inventory.router.model_copy(update={"policy": "random"})})
    after = {spec.key: spec.digest for spec in plan(router, CPU_IMAGE, SITE)}
    assert [key for key in before if before[key] != after[key]] == [("one", "lab-endpoint")]


def test_a_change_of_etcd_reaches_the_workers_and_not_what_serves(inventory: Inventory) -> None:
    before = {spec.key: spec.digest for spec in plan(inventory, CPU_IMAGE, SITE)}
    moved = inventory.model_copy(update={"etcd": inventory.etcd.model_copy(update={"peer_port": 22499})})
    after = {spec.key: spec.digest for spec in plan(moved, CPU_IMAGE, SITE)}
    assert {name for (_, name) in before if before[_, name] != after[_, name]} == {"lab-etcd", "lab-worker"}


def test_a_cluster_that_yr_starts_has_etcd_and_a_worker_in_the_masters_container(inventory: Inventory) -> None:
    table = inventory.datasystem.model_copy(update={"started_by": "yr"})
    specs = plan(inventory.model_copy(update={"datasystem": table}), CPU_IMAGE, SITE)
    assert [(spec.host, spec.role, spec.name) for spec in specs[:3]] == [
        ("one", "etcd", "lab-master"),
        ("two", "worker", "lab-worker"),
        ("one", "prefill", "lab-prefill-0"),
    ]
    master, worker, prefill = specs[:3]
    assert worker.needs == ((master.name, master.digest),)
    assert (prefill.needs, prefill.after) == ((), (master.name,))
    assert [volume.name for volume in master.volumes] == [volume.name for volume in prefill.volumes]
    assert set(master.ports) == {22440, 22441, 12123, 31501}
    for each in (master, worker):
        assert cluster.Settings.from_text(each.argv[-1]).worker_flags["log_monitor"] == "true", (
            "no figures of its tiers"
        )


def settings(inventory: Inventory) -> Settings:
    return Settings.from_text(only(plan(inventory, CPU_IMAGE, SITE), "endpoint").argv[-1])


def test_policies_of_p_and_of_d_may_differ(inventory: Inventory) -> None:
    table = inventory.router.model_copy(update={"policy": "random", "prefill_policy": "consistent_hash"})
    told = settings(inventory.model_copy(update={"router": table}))
    assert (told.prefill_policy, told.decode_policy) == ("consistent_hash", "random")


def test_keys_and_certificates_reach_the_endpoint_as_files(inventory: Inventory) -> None:
    tls = EndpointTls(certificate="/s/cert", key="/s/key")
    update = {
        "endpoint": inventory.endpoint.model_copy(update={"tls": tls}),
        "secrets": Secrets(endpoint_api_keys="/s/clients", vllm_api_key="/s/engine"),
    }
    spec = only(plan(inventory.model_copy(update=update), CPU_IMAGE, SITE), "endpoint")
    told = Settings.from_text(spec.argv[-1])
    sources = {mount.target: mount.source for mount in spec.mounts if mount.read_only}
    assert [sources[file] for file in (told.client_keys, told.engine_key, told.certificate, told.key)] == [
        "/s/clients",
        "/s/engine",
        "/s/cert",
        "/s/key",
    ]


def test_any_number_of_instances_is_planned(inventory: Inventory) -> None:
    second = inventory.prefill[0].model_copy(update={"port": 8101})
    more = inventory.model_copy(update={"prefill": (*inventory.prefill, second), "decode": inventory.decode})
    specs = plan(more, CPU_IMAGE, SITE)
    assert [spec.name for spec in specs if spec.role == "prefill"] == ["lab-prefill-0", "lab-prefill-1"]
    assert dict(only(specs, "endpoint").live)["/var/lib/yuanrong/endpoint/prefill.json"].count("810") == 2


def fleet(inventory: Inventory, count: int) -> Inventory:
    """Return the inventory with half of ``count`` hosts serving prefill and half decode."""
    hosts = tuple(
        inventory.hosts[0].model_copy(
            update={"name": f"h{n}", "engine": f"ssh://root@h{n}", "address": f"10.1.{n // 250}.{n % 250 + 1}"}
        )
        for n in range(count)
    )
    half = count // 2
    prefill = tuple(inventory.prefill[0].model_copy(update={"host": f"h{n}"}) for n in range(half))
    decode = tuple(inventory.decode[0].model_copy(update={"host": f"h{n}"}) for n in range(half, count))
    etcd = inventory.etcd.model_copy(update={"host": "h0"})
    router = inventory.router.model_copy(update={"host": "h0"})
    update = {"hosts": hosts, "prefill": prefill, "decode": decode, "etcd": etcd, "router": router}
    return inventory.model_copy(update=update)


def operations(inventory: Inventory) -> int:
    """Return how many functions a plan calls, those written in C included."""
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        plan(inventory, CPU_IMAGE, SITE)
    finally:
        sys.setprofile(None)
    return calls


def test_a_plan_of_200_hosts_costs_twice_that_of_100_and_not_more(inventory: Inventory) -> None:
    assert len(plan(fleet(inventory, 200), CPU_IMAGE, SITE)) == 402
    first, second, third = (operations(fleet(inventory, count)) for count in (50, 100, 200))
    # The same step for every 50 hosts: what grows faster than the containers would make the second step longer.
    assert (third - second) / 2 == pytest.approx(second - first, rel=0.02)


@given(st.integers(1, 8), st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_bound_cores_exist(available: int, numbers: list[int]) -> None:
    bound = bound_cores(",".join(map(str, numbers)), available)
    assert all(int(core) < available for core in bound.split(","))


def test_cores_that_exist_are_bound_as_written() -> None:
    assert bound_cores("0-3,5", 8) == "0-3,5"
    assert bound_cores("0-3", 2) == "0,1"
    assert bound_cores("", 2) == ""
    assert bound_cores("7", 0) == "7"
