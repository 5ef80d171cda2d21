"""What ``deploy.status`` prints for people."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from yrpd.deploying.status.status import status_tables
from yrpd.tables import fitted

REASON = "image vllm-ascend-yuanrong:0.10.0rc1-yuanrong.1-cpu is not vllm-ascend-yuanrong:0.10.0rc1-yuanrong.2-cpu"


def entry(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "host": "host-with-a-long-name-7",
        "name": name,
        "role": name.split("-")[-2],
        "health": "healthy",
        "release_matches": True,
        "reasons": [],
        "uptime_s": 93_784,
        **changes,
    }


DOCUMENT = {
    "deployment": "production-cluster-of-the-north",
    "endpoint": "https://10.120.130.140:8443",
    "cluster_nodes": ["a", "b"],
    "cluster_size": 2,
    "containers": [
        entry(
            "production-cluster-of-the-north-prefill-0",
            cache_usage=0.5,
            hit_rate=0.25,
            external_hit_rate=0.75,
            tiers={"memory": {"share": 0.9, "bytes": 4e9}, "disk": {"share": 0.1, "bytes": 9e10}, "remote": {}},
        ),
        entry("production-cluster-of-the-north-decode-0", release_matches=False, reasons=[REASON, "other options"]),
        entry("production-cluster-of-the-north-etcd-0", health="absent", uptime_s=None),
    ],
}


def shown(document: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=80, markup=False, emoji=False)
    with console.capture() as captured:
        for table in status_tables(document):
            console.print(fitted(table, console), soft_wrap=False)
    return captured.get()


def test_status_can_be_read_in_80_columns_whatever_names_are() -> None:
    text = shown(DOCUMENT)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    for words in (
        "prefill-0",
        "50%",
        "25%",
        "75%",
        "memory 90% (4000 MB)",
        "1 day, 2:03:04",
        "other options",
        "absent",
    ):
        assert " ".join(words.split()) in " ".join(text.split())
    assert REASON.replace(" ", "") in "".join(text.split())


def test_a_small_deployment_is_one_line_a_container() -> None:
    names = ("lab-etcd-0", "lab-worker-0", "lab-prefill-0", "lab-decode-0")
    document = {**DOCUMENT, "deployment": "lab", "containers": [entry(name, host="h1") for name in names]}
    lines = [line for line in shown(document).splitlines() if line.strip().startswith("lab-")]
    assert [line.split() for line in lines] == [
        [name, "h1", "healthy", "1", "day,", "2:03:04", "yes"] for name in names
    ]


def test_caches_are_shown_only_where_somebody_tells_of_them() -> None:
    assert len(status_tables(DOCUMENT)) == 2
    assert len(status_tables({**DOCUMENT, "containers": [entry("a-etcd-0")]})) == 1
