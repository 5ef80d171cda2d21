"""Locks, records, and what comes back after a failure, on a real engine."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from docker import DockerClient

from yrpd.deploying.hosts import containers, records
from yrpd.deploying.reconcile import Change, decide
from yrpd.deploying.rollout.audit import audited, previous_release, release_id
from yrpd.deploying.rollout.rollout import ASIDE, Rollout
from yrpd.deploying.spec import ContainerSpec, HttpProbe
from yrpd.deploying.status import logs as log_reading
from yrpd.errors import DeployError
from yrpd.project import Project
from yrpd.reporting import Reporter

HOST = "here"


@pytest.fixture
def forgetful(client: DockerClient, deployment: str) -> object:
    yield
    records.forget(client, deployment)


@pytest.fixture
def roll_out(
    clients: dict[str, DockerClient], deployment: str, reporter: Reporter, tmp_path: Path, forgetful: object
) -> Callable[..., list[str]]:
    def run(*specs: ContainerSpec, command: str = "deploy") -> list[str]:
        changes = decide(specs, [each for each, _ in containers.listed(clients[HOST], HOST, deployment)])
        rollout = Rollout(clients, deployment, tmp_path / "logs", reporter)
        with audited(Project(tmp_path), clients, deployment, command, changes, specs):
            rollout.run(changes)
        return [change.action for change in changes]

    return run


def there(client: DockerClient, deployment: str) -> dict[str, tuple[str, str]]:
    return {
        each.name: (str(container.id), each.status) for each, container in containers.listed(client, HOST, deployment)
    }


def test_a_second_deployment_is_told_who_holds_the_lock_and_since_when(
    clients: dict[str, DockerClient], deployment: str, reporter: Reporter
) -> None:
    with (
        records.locked(clients, deployment, "deploy", reporter),
        pytest.raises(DeployError, match=r"here is locked: deploy of \w+@\S+ \(pid \d+\) since 20\d\d-") as caught,
        records.locked(clients, deployment, "deploy", reporter),
    ):
        pytest.fail("two held one lock")
    assert caught.value.exit_code == 7
    assert f"docker -H ENGINE rm {deployment}-lock" in caught.value.next_command
    with records.locked(clients, deployment, "deploy", reporter):
        pass


def test_the_lock_of_a_process_that_was_killed_is_taken_over(
    clients: dict[str, DockerClient], deployment: str, reporter: Reporter, engine: str
) -> None:
    program = (
        "import os, signal, sys, docker\n"
        "from yrpd.deploying.hosts import records\n"
        "from yrpd.reporting import Reporter\n"
        "client = docker.DockerClient(base_url=sys.argv[1])\n"
        "with records.locked({'here': client}, sys.argv[2], 'deploy', Reporter()):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    scripts = str(Path(__file__).resolve().parents[3] / "scripts")
    done = subprocess.run([sys.executable, "-c", program, engine, deployment], cwd=scripts, check=False)
    assert done.returncode == -9
    assert clients[HOST].containers.get(f"{deployment}-lock")
    with records.locked(clients, deployment, "deploy", reporter):
        pass
    assert f"{deployment}-lock" not in {each.name for each in clients[HOST].containers.list(all=True)}


def test_a_host_remembers_what_was_done_and_forgets_when_told(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    spec = make_spec()
    roll_out(spec)
    (entry,) = records.recall(client, deployment)["entries"]
    assert (entry["command"], entry["outcome"], entry["release"]) == ("deploy", "done", release_id([spec]))
    assert [each["action"] for each in entry["changes"]] == ["create"]
    copy = tmp_path / "build" / "audit" / deployment / f"{HOST}.jsonl"
    assert json.loads(copy.read_text()) == entry
    assert roll_out(spec) == ["keep"]
    assert len(records.recall(client, deployment)["entries"]) == 1
    records.forget(client, deployment)
    assert records.recall(client, deployment) == {"entries": [], "releases": []}


def test_a_failed_start_brings_back_what_ran_before_and_is_on_the_record(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
) -> None:
    etcd, router = make_spec(), make_spec(role="router")
    roll_out(etcd, router)
    before = there(client, deployment)
    broken = replace(router, argv=("sh", "-c", "echo it cannot start >&2; exit 5"))
    with pytest.raises(DeployError, match="ended with code 5"):
        roll_out(etcd, broken)
    assert there(client, deployment) == before
    assert [each["outcome"] for each in records.recall(client, deployment)["entries"]][1].endswith(
        "before it was ready."
    )
    assert roll_out(etcd, router) == ["keep", "keep"]


def test_rolling_back_runs_the_release_before_and_again_the_one_after(
    client: DockerClient,
    clients: dict[str, DockerClient],
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
) -> None:
    first = make_spec()
    second = replace(first, env=(("VERSION", "2"),))
    roll_out(first)
    with pytest.raises(DeployError, match=f"no release of {deployment} before"):
        previous_release(clients, deployment)
    roll_out(second)
    release, specs = previous_release(clients, deployment)
    assert (release, specs) == (release_id([first]), (first,))
    assert roll_out(*specs, command="rollback") == ["replace"]
    assert previous_release(clients, deployment)[1] == (second,)
    assert [each["command"] for each in records.recall(client, deployment)["entries"]] == [
        "deploy",
        "deploy",
        "rollback",
    ]


def test_what_a_killed_run_had_set_aside_is_cleared_by_the_next(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
) -> None:
    spec = make_spec()
    roll_out(spec)
    left = client.containers.get(spec.name)
    left.stop(timeout=1)
    left.rename(f"{spec.name}{ASIDE}")
    changed = replace(spec, env=(("VERSION", "2"),))
    assert roll_out(changed) == ["create", "remove"]
    assert set(there(client, deployment)) == {spec.name}


def test_instances_are_exchanged_one_by_one_and_decode_goes_first(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
) -> None:
    specs = [make_spec(role=role, name=f"{deployment}-{role}-{n}") for role in ("prefill", "decode") for n in range(2)]
    roll_out(*specs)
    roll_out(*(replace(spec, env=(("VERSION", "2"),)) for spec in specs))
    started = sorted(specs, key=lambda spec: client.containers.get(spec.name).attrs["State"]["StartedAt"])
    assert [spec.role for spec in started] == ["decode", "decode", "prefill", "prefill"]
    ended = {spec.name: client.containers.get(spec.name).attrs["State"] for spec in started}
    assert all(state["Running"] for state in ended.values())


def test_a_failed_exchange_brings_back_the_instances_that_were_exchanged_already(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
) -> None:
    specs = [make_spec(role="decode", name=f"{deployment}-decode-{n}") for n in range(2)]
    roll_out(*specs)
    before = there(client, deployment)
    good = replace(specs[0], env=(("VERSION", "2"),))
    bad = replace(specs[1], argv=("sleep", "3600"), probe=HttpProbe("http://127.0.0.1:9/", deadline_s=1))
    with pytest.raises(DeployError, match="was not ready within 1 s"):
        roll_out(good, bad)
    assert there(client, deployment) == before


def test_logs_are_filtered_by_role_and_saved_to_one_archive(
    client: DockerClient,
    clients: dict[str, DockerClient],
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    roll_out(make_spec(), make_spec(role="router"))
    write = (
        "mkdir -p /root/.datasystem/logs /root/ascend/log/debug/plog && echo slow > /root/.datasystem/logs/client.log"
    )
    write += " && echo EI0006 > /root/ascend/log/debug/plog/plog-1.log"
    assert client.containers.get(f"{deployment}-router").exec_run(["sh", "-c", write]).exit_code == 0
    (found,) = log_reading.selected(clients, deployment, "router")
    assert found[0].role == "router"
    everything = log_reading.selected(clients, deployment, "")
    path = log_reading.archive(tmp_path / "out" / "logs.tar.gz", clients, deployment, everything)
    with tarfile.open(path) as tar:
        assert sorted(tar.getnames()) == sorted(
            [f"{deployment}/{HOST}/{deployment}-{role}.{end}" for role in ("etcd", "router") for end in ("json", "log")]
            + [f"{deployment}/{HOST}/record.json"]
            + [f"{deployment}/{HOST}/{deployment}-router/root/.datasystem/logs/client.log"]
            + [f"{deployment}/{HOST}/{deployment}-router/root/ascend/log/debug/plog/plog-1.log"]
        )
        plog = tar.extractfile(f"{deployment}/{HOST}/{deployment}-router/root/ascend/log/debug/plog/plog-1.log")
        assert plog is not None
        assert plog.read() == b"EI0006\n"


def test_a_log_is_followed_until_its_container_ends(
    client: DockerClient, image: str, make_spec: Callable[..., ContainerSpec]
) -> None:
    spec = make_spec(argv=("sh", "-c", "echo one; echo two; printf three"))
    container = containers.start(client, spec)
    assert list(log_reading.lines_of(container, "all")) == ["one", "two", "three"]


def test_a_line_longer_than_an_engines_message_is_followed_as_one(
    client: DockerClient, image: str, make_spec: Callable[..., ContainerSpec]
) -> None:
    container = containers.start(
        client, make_spec(argv=("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo; echo end"))
    )
    assert list(log_reading.lines_of(container, "all")) == ["x" * 40000, "end"]


def test_nothing_is_changed_when_nothing_has_to_be(
    deployment: str, make_spec: Callable[..., ContainerSpec], roll_out: Callable[..., list[str]]
) -> None:
    spec = make_spec()
    assert roll_out(spec) == ["create"]
    assert roll_out(spec) == ["keep"]
    assert isinstance(Change("keep", HOST, spec.name, "", spec).document(), dict)
