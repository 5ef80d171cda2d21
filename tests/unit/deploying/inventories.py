"""The inventory that the deploying tests vary."""

from __future__ import annotations

from pathlib import Path

from yrpd.deploying.image_record import ImageRecord
from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.planner import Site

ROOT = Path(__file__).resolve().parents[3]
CPU_IMAGE = ImageRecord("yrpd:1-cpu", "sha256:" + "a" * 64, "cpu", "v0.10.0rc1", "b" * 40)
NPU_IMAGE = ImageRecord("yrpd:1-npu", "sha256:" + "c" * 64, "npu", "v0.10.0rc1", "b" * 40)
SITE = Site("/srv/models/tiny", 2, "d" * 64)

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
port = 9000

[containers]
restart = "no"
environment = { TZ = "UTC" }
"""


def shipped(name: str) -> Inventory:
    """Return an inventory that the project ships."""
    return load_inventory(ROOT / name)
