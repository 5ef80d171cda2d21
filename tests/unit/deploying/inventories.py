"""The inventory that the deploying tests vary, and what runs of it."""

from __future__ import annotations

from pathlib import Path

from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.planning.planner import Site
from yrpd.deploying.reconcile import Observed
from yrpd.deploying.spec import IN_PLACE, ContainerSpec
from yrpd.documents.image_record import ImageRecord

ROOT = Path(__file__).resolve().parents[3]
CPU_IMAGE = ImageRecord("yrpd:1-cpu", "sha256:" + "a" * 64, "cpu", "v0.10.0rc1", "b" * 40)
NPU_IMAGE = ImageRecord("yrpd:1-npu", "sha256:" + "c" * 64, "npu", "v0.10.0rc1", "b" * 40)
SITE = Site("/srv/models/tiny", 2)

GOOD = """\
name = "lab"
scheduler = "vllm"

[[hosts]]
name = "one"
engine = "unix:///run/one.sock"
address = "10.0.0.1"

[[hosts]]
name = "two"
engine = "unix:///run/two.sock"
address = "10.0.0.2"

[model]
path = "build/models/tiny"
served_name = "tiny"
dtype = "float32"
max_model_len = 4096
block_size = 128
options = { seed = 0 }

[[prefill]]
host = "one"
port = 8100
cores = "0"

[[decode]]
host = "two"
port = 8200
cores = "1"

[datasystem]
memory_mb = 1024
port = 31501

[etcd]
host = "one"
port = 22440
peer_port = 22441

[router]
host = "one"
policy = "round_robin"

[containers]
restart = "no"
environment = { TZ = "UTC" }
"""


def shipped(name: str) -> Inventory:
    """Return an inventory that the project ships."""
    return load_inventory(ROOT / name)


def full() -> str:
    """Return an inventory with every table and most fields, for an npu image."""
    return (
        GOOD.replace('"10.0.0.1"', '"10.0.0.1"\ndevices = [0, 1, 2, 3, 4, 5, 6, 7]\ndevice_nodes = ["/dev/hisi_hdc"]')
        .replace(
            '"unix:///run/two.sock"\naddress = "10.0.0.2"',
            '"tcp://10.0.0.2:2376"\naddress = "10.0.0.2"\ndevices = [4, 5, 6, 7]\n'
            'tls = { ca = "/tls/ca", certificate = "/tls/cert", key = "/tls/key" }',
        )
        .replace("port = 8100", "port = 8100\ndata_parallel = 2\nexpert_parallel = true\noptions = { seed = 7 }")
        .replace("port = 8200", 'port = 8200\ndevices = [6]\nenvironment = { ONLY = "here" }')
        .replace(
            "port = 31501",
            'port = 31501\nspill = { directory = "/fast/spill", size_mb = 2048 }\noptions = { spill_thread_num = 4 }\n'
            "encryption = { key_folder = '/k', client_public_key = '/cpub', client_private_key = '/cpriv', "
            "server_public_key = '/spub' }",
        )
        .replace(
            "peer_port = 22441",
            "peer_port = 22441\ntls = { ca = '/e/ca', certificate = '/e/cert', key = '/e/key', "
            "client_certificate = '/e/ccert', client_key = '/e/ckey' }",
        )
        .replace(
            'policy = "round_robin"',
            'policy = "power_of_two"\nprefill_policy = "consistent_hash"',
        )
        .replace(
            '[containers]\nrestart = "no"',
            '[secrets]\nvllm_api_key = "/s/key"\nenvironment = { AUDIT_TOKEN = "/s/token" }\n\n'
            '[containers]\nrestart = "on-failure"\nrestart_attempts = 5\nprivileged = true',
        )
    )


def running(spec: ContainerSpec) -> Observed:
    """Return a container as its engine describes it when it runs what a spec says."""
    return Observed(
        *(spec.host, spec.name, spec.role, "running", 0, spec.digest, spec.image_id),
        restart=spec.restart,
        settled={name: getattr(spec, name) for name in IN_PLACE},
        live=spec.live,
        ports=spec.ports,
        runs=spec.runs,
        reads=spec.reads,
    )
