#!/usr/bin/env python3
"""Measures the planner: ``python3 scripts/bench_planner.py [HOSTS ...]`` prints seconds for fleets of these sizes."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.planning.planner import Site, plan
from yrpd.documents.image_record import ImageRecord
from yrpd.project import Project

IMAGE = ImageRecord("yrpd:bench", "sha256:" + "a" * 64, "cpu", "pin", "b" * 40)
ROUNDS = 5


def fleet(inventory: Inventory, count: int) -> Inventory:
    """Return the inventory spread over many hosts: half serve prefill, half decode."""
    hosts = tuple(
        inventory.hosts[0].model_copy(
            update={
                "name": f"h{n}",
                "engine": f"ssh://root@h{n}",
                "address": f"10.{n // 62500}.{n // 250 % 250}.{n % 250 + 1}",
            }
        )
        for n in range(count)
    )
    half = max(1, count // 2)
    return inventory.model_copy(
        update={
            "hosts": hosts,
            "prefill": tuple(inventory.prefill[0].model_copy(update={"host": f"h{n}"}) for n in range(half)),
            "decode": tuple(inventory.decode[0].model_copy(update={"host": f"h{n}"}) for n in range(half, count)),
            "etcd": inventory.etcd.model_copy(update={"host": "h0"}),
            "router": inventory.router.model_copy(update={"host": "h0"}),
        }
    )


def main() -> None:
    """Print one line per size: hosts, containers, median seconds."""
    inventory = load_inventory(Project.here().root / "lab.toml")
    for count in [int(argument) for argument in sys.argv[1:]] or [50, 100, 200, 400]:
        big = fleet(inventory, count)
        seconds = []
        for _ in range(ROUNDS):
            began = time.process_time()
            specs = plan(big, IMAGE, Site("/models/m", 2))
            seconds.append(time.process_time() - began)
        print(f"{count} hosts, {len(specs)} containers: {statistics.median(seconds):.3f} s")


if __name__ == "__main__":
    main()
