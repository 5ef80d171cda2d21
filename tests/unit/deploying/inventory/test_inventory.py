"""Inventories: good ones are read, every bad one has a message of its own that names file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.deploying.inventories import GOOD, shipped
from yrpd.deploying.inventory import load_inventory
from yrpd.deploying.inventory.reserved import (
    RESERVED_ENVIRONMENT,
    RESERVED_OPTIONS,
    RESERVED_WORKER_FLAGS,
)
from yrpd.errors import ConfigurationError

# what to replace, with what, and what the message must say
BAD: dict[str, tuple[str, str, str]] = {
    "an unknown field": (
        'name = "one"',
        'name = "one"\ncolour = "red"',
        "line 6: hosts.0.colour: there is no such field",
    ),
    "an unknown table": ("[containers]", "[container]", "line 45: container: there is no such field"),
    "a misspelt field of the second host": (
        'address = "10.0.0.2"',
        'adress = "10.0.0.2"',
        "line 9: hosts.1.address: is missing",
    ),
    "a missing table": ("[etcd]\nhost", "[datasystem.x]\nhost", "datasystem.x: there is no such field"),
    "no deployment name": ('name = "lab"\n', "", "name: is missing"),
    "a bad deployment name": ('name = "lab"', 'name = "My Lab"', "line 1: name: String should match"),
    "an unknown scheduler": ('"vllm"', '"fancy"', "line 2: scheduler: Input should be 'vllm' or 'ascend'"),
    "an engine without a scheme": (
        '"unix:///run/one.sock"',
        '"/run/one.sock"',
        "line 6: hosts.0.engine: must be unix:///path",
    ),
    "an http engine": ('"unix:///run/one.sock"', '"http://one"', "hosts.0.engine: must be unix:///path"),
    "a relative socket": ('"unix:///run/one.sock"', '"unix://run/one.sock"', "hosts.0.engine: a unix:// engine needs"),
    "an empty ssh engine": ('"unix:///run/two.sock"', '"ssh://"', "line 11: hosts.1.engine: must be"),
    "a host name for an address": ('"10.0.0.1"', '"one.example"', "line 7: hosts.0.address: must be an IP address"),
    "a wildcard address": ('"10.0.0.1"', '"0.0.0.0"', "hosts.0.address: must be an address of this host"),
    "an IPv6 address": ('"10.0.0.1"', '"fd00::1"', "hosts.0.address: must be an IPv4 address"),
    "two hosts of one name": ('name = "two"', 'name = "one"', "two hosts have the same name 'one'"),
    "two hosts of one address": ('"10.0.0.2"', '"10.0.0.1"', "two hosts have the same address '10.0.0.1'"),
    "two hosts of one engine": ("/run/two.sock", "/run/one.sock", "two hosts have the same engine"),
    "a device named twice": (
        '"10.0.0.1"',
        '"10.0.0.1"\ndevices = [0, 0]',
        "line 8: hosts.0.devices: names a device twice",
    ),
    "a negative device": (
        '"10.0.0.1"',
        '"10.0.0.1"\ndevices = [-1]',
        "line 8: hosts.0.devices.0: Input should be greater",
    ),
    "a relative driver mount": (
        '"10.0.0.1"',
        '"10.0.0.1"\ndriver_mounts = ["dcmi"]',
        "line 8: hosts.0.driver_mounts.0: must be an absolute path",
    ),
    "an unknown dtype": ('"float32"', '"auto"', "line 17: model.dtype: Input should be 'float32'"),
    "a block size that vLLM has not": (
        "block_size = 128",
        "block_size = 100",
        "line 19: model.block_size: Input should be",
    ),
    "a length of zero": ("max_model_len = 4096", "max_model_len = 0", "line 18: model.max_model_len: Input should be"),
    "a length below a block": ("max_model_len = 4096", "max_model_len = 64", "is smaller than one block"),
    "a length that is text": (
        "max_model_len = 4096",
        'max_model_len = "long"',
        "model.max_model_len: Input should be a valid",
    ),
    "an empty model path": ('"build/models/tiny"', '""', "line 15: model.path: must be a folder"),
    "a model path that climbs": ('"build/models/tiny"', '"../tiny"', "line 15: model.path: must be a folder"),
    "a served name with blanks": ('"tiny"\ndtype', '"my model"\ndtype', "model.served_name: String should match"),
    "cores that run backwards": (
        'host = "one"\nport = 8100\ncores = "0"',
        'host = "one"\nport = 8100\ncores = "1,3-0"',
        "line 25: prefill.0.cores: '3-0' runs backwards",
    ),
    "a reserved option": (
        "{ seed = 0 }",
        "{ port = 1 }",
        "line 20: model.options: 'port' is reserved: it is the instance's",
    ),
    "a reserved switch turned round": (
        "options = { seed = 0 }",
        "options = { no_enable_prefix_caching = true }",
        "model.options: 'enable_prefix_caching' is reserved: it is always on",
    ),
    "a switch turned round and round": (
        "options = { seed = 0 }",
        "options = { no-enforce-eager = true, enforce-eager = true }",
        "model.options: 'enforce-eager' is set twice",
    ),
    "a switch with a value": (
        "options = { seed = 0 }",
        "options = { no-enforce-eager = 1 }",
        "model.options: 'no-enforce-eager' is a switch; it is true or false",
    ),
    "the beginning of a reserved option": (
        "options = { seed = 0 }",
        "options = { async = true }",
        "model.options: 'async' is the beginning of 'async-scheduling', which is reserved: the connector cannot load",
    ),
    "the beginning of a reserved option of one instance": (
        "port = 8200",
        "port = 8200\noptions = { speculative-c = { method = 'eagle' } }",
        "decode.0.options: 'speculative-c' is the beginning of 'speculative-config', which is reserved",
    ),
    "a short option": (
        "options = { seed = 0 }",
        'options = { "-tp" = 2 }',
        "model.options: '-tp' is not an option name; write it without leading dashes",
    ),
    "an option without values": (
        "options = { seed = 0 }",
        "options = { lora-modules = [] }",
        "model.options: 'lora-modules' has a value that a command line cannot carry: []",
    ),
    "another scheduler in vllm-ascend's own table": (
        "options = { seed = 0 }",
        "options = { additional-config = { ascend_scheduler_config = { enabled = true } } }",
        "model.options: 'enabled' of 'ascend_scheduler_config' is reserved: it is the inventory's scheduler",
    ),
    "vllm-ascend's own table as text": (
        "options = { seed = 0 }",
        "options = { additional-config = '{}' }",
        "model.options: 'additional-config' and its 'ascend_scheduler_config' are tables",
    ),
    "a reserved option with underscores": (
        "{ seed = 0 }",
        "{ kv_transfer_config = 1 }",
        "'kv_transfer_config' is reserved: the connector is configured",
    ),
    "speculative decoding": ("{ seed = 0 }", '{ speculative-config = "x" }', "vLLM counts look-ahead slots"),
    "a secret option": ("{ seed = 0 }", '{ api-key = "x" }', "a secret on a command line is visible"),
    "an option with dashes": ("{ seed = 0 }", "{ --seed = 0 }", "write it without leading dashes"),
    "an option set twice": ("{ seed = 0 }", "{ max-num-seqs = 1, max_num_seqs = 2 }", "'max_num_seqs' is set twice"),
    "an option that is a date": (
        "{ seed = 0 }",
        "{ seed = 2020-01-01 }",
        "has a value that a command line cannot carry",
    ),
    "prefill on an unknown host": (
        'host = "one"\nport = 8100',
        'host = "three"\nport = 8100',
        "line 23: prefill.0.host: there is no host 'three'; there are: one, two",
    ),
    "the router on an unknown host": (
        'host = "one"\npolicy',
        'host = "four"\npolicy',
        "line 42: router.host: there is no host 'four'",
    ),
    "etcd on an unknown host": (
        'host = "one"\nport = 22440',
        'host = "five"\nport = 22440',
        "line 37: etcd.host: there is no host 'five'",
    ),
    "a master of yr on a host that does not serve": (
        'memory_mb = 1024\nport = 31501\n\n[etcd]\nhost = "one"',
        'memory_mb = 1024\nstarted_by = "yr"\n[[hosts]]\nname = "x"\nengine = "ssh://x"\naddress = "10.0.0.9"\n'
        '[etcd]\nhost = "x"',
        "the master of `yr start` has a worker",
    ),
    "a cluster by yr with the keys of dscli": (
        "port = 31501",
        "port = 31501\nstarted_by = 'yr'\nencryption = { key_folder = '/k', client_public_key = '/a', "
        "client_private_key = '/b', server_public_key = '/c' }",
        'datasystem.started_by: certificates and keys are for "dscli"',
    ),
    "a cluster started by another tool": (
        "port = 31501",
        "started_by = 'ray'",
        "datasystem.started_by: Input should be",
    ),
    "no try at all": ("[containers]", "[endpoint]\ntries = 0\n\n[containers]", "endpoint.tries: Input should be"),
    "the endpoint on the port where D asks for P": (
        "[containers]",
        "[endpoint]\nport = 9001\n\n[containers]",
        "port 9001 on one is already taken by endpoint.port",
    ),
    "a certificate without its key": (
        "[containers]",
        "[endpoint]\ntls = { certificate = '/c' }\n\n[containers]",
        "endpoint.tls.key: is missing",
    ),
    "a port too high": ("port = 8100", "port = 70000", "line 24: prefill.0.port: Input should be less than"),
    "a port of zero": ("port = 31501", "port = 0", "datasystem.port: Input should be greater than"),
    "an endpoint on the port of HTTPS": (
        "[containers]",
        "[endpoint]\nport = 443\n\n[containers]",
        "line 46: endpoint.port: is below 1024, where listening takes the capability NET_BIND_SERVICE, which no "
        "container is given; choose 1024 or more, and let a load balancer or the host's firewall pass the lower one on "
        "(found 443)",
    ),
    "a worker on the last port that takes a capability": (
        "port = 31501",
        "port = 1023",
        "line 34: datasystem.port: is below 1024",
    ),
    "two services on one port": (
        "[containers]",
        "[endpoint]\nprefill_port = 8100\n\n[containers]",
        "line 46: endpoint.prefill_port: port 8100 on one is already taken by prefill.0.port",
    ),
    "etcd's two ports equal": (
        "peer_port = 22441",
        "peer_port = 22440",
        "etcd.peer_port: port 22440 on one is already taken",
    ),
    "bad cores": ('cores = "0"', 'cores = "all"', "line 25: prefill.0.cores: String should match"),
    "different tensor parallel sizes": (
        "port = 8100",
        "port = 8100\ntensor_parallel = 4",
        "tensor_parallel differs between P",
    ),
    "a pool that is too small": (
        "memory_mb = 1024",
        "memory_mb = 1",
        "line 33: datasystem.memory_mb: Input should be greater",
    ),
    "an unknown setting of the connector": (
        "[etcd]",
        "[connector]\nspeed = 1\n\n[etcd]",
        "line 37: connector.speed: there is",
    ),
    "no patience at all": (
        "[etcd]",
        "[connector]\nlookup_timeout_ms = 0\n\n[etcd]",
        "line 37: connector.lookup_timeout_ms: Input should be greater",
    ),
    "an unknown restart policy": (
        'restart = "no"',
        'restart = "maybe"',
        "line 46: containers.restart: Input should be",
    ),
    "a reserved variable": (
        'TZ = "UTC"',
        'VLLM_PLUGINS = ""',
        "'VLLM_PLUGINS' is reserved: it follows from the flavour",
    ),
    "a secret variable": ('TZ = "UTC"', 'MY_SECRET = "x"', "'MY_SECRET' looks like a secret"),
    "a variable with a dash": ('TZ = "UTC"', 'A-B = "x"', "'A-B' is not the name of an environment variable"),
    "a tcp engine without certificates": (
        '"unix:///run/two.sock"',
        '"tcp://two:2376"',
        "line 9: hosts.1: a tcp:// engine needs tls = { ca, certificate, key }",
    ),
    "certificates for a socket": (
        'address = "10.0.0.2"',
        'address = "10.0.0.2"\ntls = { ca = "/a", certificate = "/b", key = "/c" }',
        "hosts.1: tls is for tcp:// engines",
    ),
    "half of a key pair": (
        'address = "10.0.0.2"',
        'address = "10.0.0.2"\ntls = { ca = "/a", certificate = "/b" }',
        "line 13: hosts.1.tls.key: is missing",
    ),
    "a device node outside of /dev": (
        '"10.0.0.1"',
        '"10.0.0.1"\ndevice_nodes = ["/etc/passwd"]',
        "hosts.0.device_nodes: '/etc/passwd' is not a device node below /dev",
    ),
    "an NPU among the device nodes": (
        '"10.0.0.1"',
        '"10.0.0.1"\ndevice_nodes = ["/dev/davinci3"]',
        "'/dev/davinci3' is an NPU; list its number in devices",
    ),
    "a driver mount with a comma": (
        '"10.0.0.1"',
        '"10.0.0.1"\ndriver_mounts = ["/a,readonly=false"]',
        "hosts.0.driver_mounts.0: must not contain",
    ),
    "an NPU that the host has not": (
        "port = 8100",
        "port = 8100\ndevices = [3]",
        "line 25: prefill.0.devices: one has no NPU 3 in its devices",
    ),
    "more NPUs than ranks": (
        "port = 8100",
        "port = 8100\ndevices = [0, 1]",
        "prefill.0.devices: names 2 NPU(s), tensor_parallel times data_parallel is 1",
    ),
    "an NPU for two instances": (
        '"10.0.0.1"\n',
        '"10.0.0.1"\ndevices = [0]\n[[prefill]]\nhost = "one"\nport = 8101\ndevices = [0]\n'
        '[[prefill]]\nhost = "one"\nport = 8102\ndevices = [0]\n',
        "prefill.1.devices: NPU 0 of one is already taken by prefill.0.devices",
    ),
    "no replicas": (
        "port = 8100",
        "port = 8100\ndata_parallel = 0",
        "prefill.0.data_parallel: Input should be greater",
    ),
    "an expert parallel size": (
        "port = 8100",
        "port = 8100\nexpert_parallel = 4",
        "prefill.0.expert_parallel: Input should be a valid boolean",
    ),
    "a reserved option of one instance": (
        "port = 8200",
        "port = 8200\noptions = { data-parallel-size = 2 }",
        "line 30: decode.0.options: 'data-parallel-size' is reserved: it is the instance's data_parallel",
    ),
    "expert parallelism as an option": (
        "{ seed = 0 }",
        "{ enable-expert-parallel = true }",
        "'enable-expert-parallel' is reserved: it is the instance's expert_parallel",
    ),
    "a reserved variable of one instance": (
        "port = 8200",
        'port = 8200\nenvironment = { VLLM_HOST_IP = "1.2.3.4" }',
        "decode.0.environment: 'VLLM_HOST_IP' is reserved: it is the host's address",
    ),
    "the tutorial's misspelt variable": (
        'TZ = "UTC"',
        'HCL_OP_EXPANSION_MODE = "AIV"',
        "'HCL_OP_EXPANSION_MODE' is reserved: a letter is missing",
    ),
    "a token among the variables": (
        'TZ = "UTC"',
        'HF_TOKEN = "x"',
        "'HF_TOKEN' looks like a secret, and docker inspect shows environments to everyone; name a file",
    ),
    "a secret file with a relative path": (
        "[router]",
        '[secrets]\nvllm_api_key = "key"\n\n[router]',
        "line 42: secrets.vllm_api_key: must be an absolute path",
    ),
    "a secret under a reserved name": (
        "[router]",
        '[secrets]\nenvironment = { VLLM_API_KEY = "/k" }\n\n[router]',
        "secrets.environment: 'VLLM_API_KEY' is reserved: it is [secrets] vllm_api_key",
    ),
    "spilling without a limit": (
        "port = 31501",
        'port = 31501\nspill = { directory = "/spill" }',
        "line 35: datasystem.spill.size_mb: is missing",
    ),
    "spilling to a relative folder": (
        "port = 31501",
        'port = 31501\nspill = { directory = "spill", size_mb = 100 }',
        "datasystem.spill.directory: must be an absolute path",
    ),
    "a flag of the worker that the deployment sets": (
        "port = 31501",
        "port = 31501\noptions = { shared_memory_size_mb = 5 }",
        "datasystem.options: 'shared_memory_size_mb' is reserved: it is [datasystem] memory_mb",
    ),
    "a secret flag of the worker": (
        "port = 31501",
        'port = 31501\noptions = { etcd_password = "x" }',
        "'etcd_password' carries a secret",
    ),
    "a flag of the worker with dashes": (
        "port = 31501",
        "port = 31501\noptions = { log-level = 1 }",
        "'log-level' is not a flag of the worker; write it with underscores",
    ),
    "encryption without the clients' keys": (
        "port = 31501",
        'port = 31501\nencryption = { key_folder = "/k" }',
        "datasystem.encryption.client_public_key: is missing",
    ),
    "etcd certificates without a key": (
        "peer_port = 22441",
        'peer_port = 22441\ntls = { ca = "/a" }',
        "line 40: etcd.tls.certificate: is missing",
    ),
    "a load that ends before its calls": (
        "[etcd]",
        "[connector]\nload_timeout_ms = 10\nrequest_timeout_ms = 20\n\n[etcd]",
        "line 36: connector: load_timeout_ms 10 is less than request_timeout_ms 20",
    ),
    "a policy that Envoy does not have": (
        'policy = "round_robin"',
        'prefill_policy = "kv_aware"',
        "line 43: router.prefill_policy: Input should be 'round_robin', 'random', 'power_of_two' or 'consistent_hash'",
    ),
    "a policy of vllm-router": (
        'policy = "round_robin"',
        'policy = "cache_aware"',
        "router.policy: Input should be 'round_robin', 'random', 'power_of_two' or 'consistent_hash'",
    ),
    "a port of vllm-router": (
        'policy = "round_robin"',
        "port = 9001",
        "line 43: router.port: leave it out: vllm-router is gone, and D asks for P at [endpoint] prefill_port",
    ),
    "options of vllm-router": (
        'policy = "round_robin"',
        "options = { queue-size = 1 }",
        "router.options: leave it out: vllm-router is gone; tries and limits are those of [endpoint]",
    ),
    "metrics of vllm-router": (
        'policy = "round_robin"',
        "metrics_port = 29000",
        "router.metrics_port: leave it out: vllm-router is gone, and all metrics are at [endpoint] metrics_port",
    ),
    "a clock that would end answers": (
        "[containers]",
        "[endpoint]\nidle_timeout_s = 600\n\n[containers]",
        "line 46: endpoint.idle_timeout_s: leave it out: no clock ends an answer",
    ),
    "attempts without a policy that counts them": (
        'restart = "no"',
        'restart = "always"\nrestart_attempts = 3',
        'line 47: containers.restart_attempts: only restart = "on-failure" counts its attempts',
    ),
    "a capability with its prefix": (
        'restart = "no"',
        'restart = "no"\ncapabilities = ["CAP_SYS_ADMIN"]',
        "containers.capabilities: 'CAP_SYS_ADMIN': write it without CAP_",
    ),
    "all capabilities": (
        'restart = "no"',
        'restart = "no"\ncapabilities = ["ALL"]',
        "containers.capabilities: 'ALL' is what privileged = true says",
    ),
    "no TOML": ("[model]", "[model", "is not valid TOML"),
    "no prefill": (
        '[[prefill]]\nhost = "one"\nport = 8100\ncores = "0"\n',
        "",
        "prefill: is missing",
    ),
}


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    load_inventory(path)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_inventory_is_refused_with_file_line_and_field(case: str, tmp_path: Path) -> None:
    old, new, message = BAD[case]
    assert GOOD.count(old) >= 1, f"the good inventory lacks {old!r}"
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert "bad.toml" in caught.value.message
    assert message in caught.value.message
    assert caught.value.exit_code == 2
    assert str(tmp_path / "bad.toml") in caught.value.next_command


def test_every_bad_inventory_has_a_message_of_its_own(tmp_path: Path) -> None:
    messages = []
    for old, new, _ in BAD.values():
        with pytest.raises(ConfigurationError) as caught:
            read(tmp_path, GOOD.replace(old, new, 1))
        messages.append(caught.value.message)
    assert len(set(messages)) == len(messages)


def test_all_errors_of_an_inventory_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("memory_mb = 1024", "memory_mb = 1").replace('"float32"', '"auto"')
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert "model.dtype" in caught.value.message
    assert caught.value.detail.splitlines()[1].startswith("bad.toml, line 33: datasystem.memory_mb: ")


@pytest.mark.parametrize("table", [RESERVED_OPTIONS, RESERVED_ENVIRONMENT, RESERVED_WORKER_FLAGS])
def test_every_reserved_name_has_a_reason_that_is_a_sentence(table: dict[str, str]) -> None:
    assert all(len(reason.split()) > 2 and not reason.endswith(".") for reason in table.values())


def test_a_good_inventory_is_read(tmp_path: Path) -> None:
    read(tmp_path, GOOD)


def test_a_missing_inventory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml does not exist"):
        load_inventory(tmp_path / "nowhere.toml")


def test_a_folder_in_place_of_an_inventory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_inventory(tmp_path)


@pytest.mark.parametrize("name", ["lab.toml", "hosts.toml"])
def test_the_shipped_inventories_are_good(name: str) -> None:
    inventory = shipped(name)
    assert len(inventory.hosts) == 2
    assert {each.host for each in inventory.prefill}.isdisjoint(each.host for each in inventory.decode)


def test_the_example_maps_the_tutorials_devices_and_driver_files() -> None:
    for host in shipped("hosts.toml").hosts:
        assert host.devices == tuple(range(8))
        assert {"/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"} == set(host.device_nodes)
        assert {"/usr/local/dcmi", "/usr/local/bin/npu-smi", "/etc/ascend_install.info"} <= set(host.driver_mounts)
