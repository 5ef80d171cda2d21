"""Locks, records, and what comes back after a failure, on a real engine."""

from __future__ import annotations

import getpass
import json
import os
import socket
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
from yrpd.deploying.rollout.rollout import Rollout
from yrpd.deploying.rollout.steps import ASIDE
from yrpd.deploying.spec import ContainerSpec
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
        with audited(Project(tmp_path), clients, deployment, command, changes, specs, rollout.states):
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
    assert caught.value.next_command.startswith(f"invoke deploy.unlock --owner {getpass.getuser()}@")
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
    etcd, endpoint = make_spec(), make_spec(role="endpoint")
    roll_out(etcd, endpoint)
    before = there(client, deployment)
    broken = replace(endpoint, argv=("sh", "-c", "echo it cannot start >&2; exit 5"))
    with pytest.raises(DeployError, match="ended with code 5"):
        roll_out(etcd, broken)
    assert there(client, deployment) == before
    assert [each["outcome"] for each in records.recall(client, deployment)["entries"]][1].endswith(
        "before it was ready."
    )
    assert roll_out(etcd, endpoint) == ["keep", "keep"]


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


def test_what_is_new_and_healthy_stays_when_the_next_fails_and_a_rollback_knows_of_both(
    client: DockerClient,
    clients: dict[str, DockerClient],
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
) -> None:
    specs = [make_spec(role="decode", name=f"{deployment}-decode-{n}") for n in range(3)]
    roll_out(*specs)
    before = there(client, deployment)
    new = [replace(spec, env=(("VERSION", "2"),)) for spec in specs]
    new[2] = replace(new[2], argv=("sleep", "3600"), probe=replace(new[2].probe, deadline_s=2))
    with pytest.raises(DeployError, match="was not ready within 2 s") as caught:
        roll_out(*new)
    assert caught.value.next_command.startswith("less ")
    after = there(client, deployment)
    assert {status for _, status in after.values()} == {"running"}
    assert [after[spec.name] == before[spec.name] for spec in specs] == [False, False, True]
    entry = records.recall(client, deployment)["entries"][-1]
    assert {each["name"]: each["state"] for each in entry["changes"]} == {
        specs[0].name: "done", specs[1].name: "done", specs[2].name: "failed"
    }  # fmt: skip
    assert previous_release(clients, deployment) == (release_id(specs), tuple(specs))
    assert roll_out(*specs, command="rollback") == ["replace", "replace", "keep"]


def test_a_release_that_a_host_has_forgotten_is_not_gone_back_to(
    client: DockerClient,
    clients: dict[str, DockerClient],
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
) -> None:
    spec = make_spec()
    elsewhere = replace(make_spec(role="router"), host="elsewhere")
    entry = {"time": "now", "release": release_id([spec, elsewhere]), "changes": [], "outcome": "done"}
    records.remember(client, deployment, entry, [spec.document()])
    roll_out(spec)
    with pytest.raises(DeployError, match="in part only"):
        previous_release(clients, deployment)


def test_a_lock_in_another_pid_namespace_is_not_taken_over_and_its_owner_can_be_named(
    client: DockerClient, clients: dict[str, DockerClient], deployment: str, reporter: Reporter
) -> None:
    here = records.Holder.here("deploy")
    assert not here.is_gone()
    ended = replace(here, pid=2**22 + 1, began="1")
    assert ended.is_gone()
    assert not replace(ended, space="another boot pid:[1]").is_gone()
    assert not replace(ended, space="").is_gone(), "an earlier version's lock does not tell"
    with records.locked(clients, deployment, "deploy", reporter):
        ((holder, _),) = records.holders(clients, deployment).values()
        assert holder is not None
        assert (holder.pid, holder.owner) == (os.getpid(), f"{getpass.getuser()}@{socket.gethostname()}")
    assert records.holders(clients, deployment) == {}


def test_a_user_without_a_name_can_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))
    assert records.Holder.here("deploy").user == str(os.getuid())


def test_logs_are_filtered_by_role_and_saved_to_one_archive(
    client: DockerClient,
    clients: dict[str, DockerClient],
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    roll_out(make_spec(), make_spec(role="endpoint"))
    write = (
        "mkdir -p /root/.datasystem/logs /root/ascend/log/debug/plog && echo slow > /root/.datasystem/logs/client.log"
    )
    write += " && echo EI0006 > /root/ascend/log/debug/plog/plog-1.log"
    assert client.containers.get(f"{deployment}-endpoint").exec_run(["sh", "-c", write]).exit_code == 0
    (found,) = log_reading.selected(clients, deployment, "endpoint")
    assert found[0].role == "endpoint"
    everything = log_reading.selected(clients, deployment, "")
    path = log_reading.archive(tmp_path / "out" / "logs.tar.gz", clients, deployment, everything)
    with tarfile.open(path) as tar:
        assert sorted(tar.getnames()) == sorted(
            [
                f"{deployment}/{HOST}/{deployment}-{role}.{end}"
                for role in ("etcd", "endpoint")
                for end in ("json", "log")
            ]
            + [f"{deployment}/{HOST}/record.json"]
            + [f"{deployment}/{HOST}/{deployment}-endpoint/root/.datasystem/logs/client.log"]
            + [f"{deployment}/{HOST}/{deployment}-endpoint/root/ascend/log/debug/plog/plog-1.log"]
        )
        plog = tar.extractfile(f"{deployment}/{HOST}/{deployment}-endpoint/root/ascend/log/debug/plog/plog-1.log")
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
