"""Inventories for the tests: the shipped lab.toml with other hosts, instances and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from tests.e2e.running import ROOT

PREFILL_PORTS, DECODE_PORTS = 8100, 8200


def lab_inventory(
    path: Path,
    *,
    prefill: Sequence[str] = ("host1",),
    decode: Sequence[str] = ("host2",),
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Path:
    """Write an inventory of the lab.

    Args:
        path: Where.
        prefill: The host of each P; they are hosts of lab.toml or, of the same kind, more of them.
        decode: The host of each D.
        tables: What is different in tables of lab.toml; a table that is not there is added.
        settings: Fields outside of all tables.

    Returns:
        The path.
    """
    document = tomlkit.parse((ROOT / "lab.toml").read_text(encoding="utf-8")).unwrap()
    first = document["hosts"][0]
    names = sorted({*(host["name"] for host in document["hosts"]), *prefill, *decode})
    document["hosts"] = [
        {
            key: value.replace("host1", name) if key != "address" else value.removesuffix("1") + name[-1]
            for key, value in first.items()
        }
        for name in names
    ]
    for role, hosts, port, core in (("prefill", prefill, PREFILL_PORTS, "0"), ("decode", decode, DECODE_PORTS, "1")):
        document[role] = [{"host": host, "port": port + number, "cores": core} for number, host in enumerate(hosts)]
    document["model"]["path"] = str(ROOT / document["model"]["path"])
    for name, table in (tables or {}).items():
        document[name] = {**document.get(name, {}), **table}
    # Fields outside of all tables come first, as TOML wants it.
    path.write_text(tomlkit.dumps({**document, **settings}), encoding="utf-8")
    return path
