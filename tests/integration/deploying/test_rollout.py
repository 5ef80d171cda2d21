"""The executor on a real engine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from docker import DockerClient
from tenacity import Retrying, stop_after_delay, wait_fixed

from tests.integration.deploying.conftest import SERVER
from yrpd.deploying.deploy import NOT_TRAVELLING, stranded
from yrpd.deploying.hosts import containers
from yrpd.deploying.hosts.removal import remove_all
from yrpd.deploying.planning.ports import answers
from yrpd.deploying.reconcile import Change, decide
from yrpd.deploying.rollout.drain import drain
from yrpd.deploying.rollout.rollout import Rollout
from yrpd.deploying.rollout.steps import ASIDE
from yrpd.deploying.spec import DEPLOYMENT, ContainerSpec, FileProbe, HttpProbe, Mount
from yrpd.errors import DeployError
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.serving.command_lines import DRAINING

HOST = "here"
# Its listener closes when it is told so, and the process stays, as Envoy's does.
CLOSES = f"""
import signal, threading
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
{SERVER.replace(").serve_forever()", ")").replace("http.server.HTTPServer(", "server = http.server.HTTPServer(", 1)}
threading.Thread(target=server.serve_forever, daemon=True).start()
signal.sigwait([signal.SIGUSR1])
server.shutdown(); server.server_close()
signal.pause()
"""


@pytest.fixture
def roll_out(
    clients: dict[str, DockerClient], deployment: str, reporter: Reporter, tmp_path: Path
) -> Callable[..., tuple[Change, ...]]:
    def run(*specs: ContainerSpec) -> tuple[Change, ...]:
        observed = [each for each, _ in containers.listed(clients[HOST], HOST, deployment)]
        changes = decide(specs, observed)
        Rollout(clients, deployment, tmp_path / "logs", reporter).run(changes)
        return changes

    return run


def _names(client: DockerClient, deployment: str) -> list[str]:
    return sorted(each.name for each, _ in containers.listed(client, HOST, deployment))


def _ids(client: DockerClient, deployment: str) -> dict[str, str]:
    return {each.name: str(container.id) for each, container in containers.listed(client, HOST, deployment)}


def _actions(changes: Sequence[Change]) -> list[str]:
    return [change.action for change in changes]


def test_a_second_rollout_keeps_every_container(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    etcd = make_spec()
    endpoint = make_spec(role="endpoint")
    assert _actions(roll_out(etcd, endpoint)) == ["create", "create"]
    before = _ids(client, deployment)
    assert _actions(roll_out(etcd, endpoint)) == ["keep", "keep"]
    assert _ids(client, deployment) == before


def test_a_changed_option_replaces_its_container_and_what_needs_it_and_nothing_else(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    etcd, endpoint = make_spec(), make_spec(role="endpoint")
    worker = make_spec(role="worker", needs=((etcd.name, etcd.digest),))
    roll_out(etcd, worker, endpoint)
    before = _ids(client, deployment)
    changed = make_spec(env=(("CHANGED", "yes"),), port=etcd.ports[0])
    needing = make_spec(role="worker", port=worker.ports[0], needs=((changed.name, changed.digest),))
    assert _actions(roll_out(changed, needing, endpoint)) == ["replace", "replace", "keep"]
    after = _ids(client, deployment)
    assert {name for name in before if before[name] != after[name]} == {etcd.name, worker.name}


def test_a_container_that_ends_early_fails_at_once_with_the_tail_of_its_log_and_leaves_nothing(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
    tmp_path: Path,
) -> None:
    etcd = make_spec()
    dying = make_spec(
        role="prefill",
        argv=("sh", "-c", "echo the reason is here >&2; exit 3"),
        probe=HttpProbe("http://127.0.0.1:9/", deadline_s=3600),
    )
    waiting = make_spec(role="decode", argv=("sleep", "3600"), probe=HttpProbe("http://127.0.0.1:9/", deadline_s=3600))
    with pytest.raises(DeployError, match="ended with code 3") as caught:
        roll_out(etcd, waiting, dying)
    assert "the reason is here" in caught.value.detail
    assert "less " in caught.value.next_command
    assert _names(client, deployment) == []
    assert "the reason is here" in (tmp_path / "logs" / f"{HOST}-{dying.name}.log").read_text()


def test_a_container_that_never_answers_fails_at_its_deadline(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    silent = make_spec(argv=("sleep", "3600"), probe=HttpProbe("http://127.0.0.1:9/", deadline_s=1))
    with pytest.raises(DeployError, match="was not ready within 1 s"):
        roll_out(silent)
    assert _names(client, deployment) == []


def test_what_ran_before_a_failed_rollout_and_did_not_change_still_runs(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    etcd = make_spec()
    roll_out(etcd)
    before = _ids(client, deployment)
    with pytest.raises(DeployError):
        roll_out(etcd, make_spec(role="endpoint", argv=("false",)))
    assert _ids(client, deployment) == before


def test_a_container_that_was_stopped_by_hand_is_started_anew(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    etcd = make_spec()
    roll_out(etcd)
    client.containers.get(etcd.name).kill()
    changes = roll_out(etcd)
    assert _actions(changes) == ["replace"]
    assert "exited with code 137" in changes[0].reason


def test_what_a_killed_run_had_set_aside_goes_and_d_are_still_exchanged_one_by_one(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"{deployment}-decode-{number}" for number in range(2)]
    specs = [make_spec(role="decode", name=name) for name in names]
    roll_out(*specs)
    containers.start(client, make_spec(role="decode", name=f"{names[1]}{ASIDE}"))
    capsys.readouterr()
    roll_out(*(replace(spec, env=(("CHANGED", "yes"),)) for spec in specs))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--> st")]
    wanted = [(verb, name) for name in names for verb in ("stopping", "starting")]
    assert said == [f"--> {verb} {name} on {HOST}" for verb, name in wanted]
    assert _names(client, deployment) == names


def test_another_image_exchanges_what_vllm_stands_on_then_d_and_p_one_by_one_and_last_what_clients_see(
    client: DockerClient,
    deployment: str,
    newer_image: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    etcd = make_spec()
    worker = make_spec(role="worker", needs=((etcd.name, etcd.digest),))
    engines = [
        make_spec(role=role, name=f"{deployment}-{role}-{number}", after=(worker.name,))
        for role in ("prefill", "decode")
        for number in range(2)
    ]
    front = [make_spec(role="endpoint")]
    roll_out(etcd, worker, *engines, *front)
    newer = replace(etcd, image_id=newer_image)
    capsys.readouterr()
    changes = roll_out(
        newer,
        replace(worker, image_id=newer_image, needs=((newer.name, newer.digest),)),
        *(replace(spec, image_id=newer_image) for spec in (*engines, *front)),
    )
    assert set(_actions(changes)) == {"replace"}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--> st")]
    on = f" on {HOST}"
    one_by_one = [f"{deployment}-{role}-{number}{on}" for role in ("decode", "prefill") for number in range(2)]
    below, above = [f"{etcd.name}{on}", f"{worker.name}{on}"], [f"{spec.name}{on}" for spec in front]
    assert said == [
        *(f"--> stopping {each}" for each in reversed(below)),
        *(f"--> starting {each}" for each in below),
        *(f"--> {verb} {each}" for each in one_by_one for verb in ("stopping", "starting")),
        f"--> stopping {', '.join(above)}",
        f"--> starting {', '.join(above)}",
    ]
    running = [container for _, container in containers.listed(client, HOST, deployment)]
    assert {container.attrs["Image"] for container in running} == {newer_image}
    assert len(running) == 7


def test_a_restart_policy_and_a_file_that_is_read_again_are_changed_in_a_container_that_runs_on(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    path = "/var/lib/told/endpoints.json"
    spec = replace(make_spec(role="endpoint"), live=((path, "old"),))
    roll_out(spec)
    before, container = _ids(client, deployment), client.containers.get(spec.name)
    assert container.exec_run(["cat", path]).output == b"old"
    new = replace(spec, restart="on-failure", restart_attempts=3, stop_seconds=31, live=((path, "new"),))
    (change,) = roll_out(new)
    assert (change.action, change.reason) == ("update", "its restart policy is no and its endpoints.json changed")
    container.reload()
    assert container.attrs["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert container.exec_run(["cat", path]).output == b"new"
    assert _ids(client, deployment) == before
    assert _actions(roll_out(new)) == ["keep"]


def test_what_does_not_serve_anyway_is_started_together_before_another_is_stopped(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    specs = [
        make_spec(role=role, name=f"{deployment}-{role}-{number}")
        for role in ("prefill", "decode")
        for number in (0, 1)
    ]
    roll_out(*specs)
    idle = [specs[1], specs[3]]
    for spec in idle:
        client.containers.get(spec.name).kill()
    capsys.readouterr()
    roll_out(*(replace(spec, env=(("CHANGED", "yes"),)) for spec in specs))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--> st")]
    together = ", ".join(f"{spec.name} on {HOST}" for spec in idle)
    alone = [f"{verb} {spec.name} on {HOST}" for spec in (specs[2], specs[0]) for verb in ("stopping", "starting")]
    assert said == [f"--> {each}" for each in (f"stopping {together}", f"starting {together}", *alone)]


def test_a_worker_that_was_killed_is_started_anew_and_the_vllm_beside_it_stays(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    worker = make_spec(role="worker")
    decode = make_spec(role="decode", after=(worker.name,))
    roll_out(worker, decode)
    before = _ids(client, deployment)
    client.containers.get(worker.name).kill()
    assert _actions(roll_out(worker, decode)) == ["replace", "keep"]
    after = _ids(client, deployment)
    assert {name for name in before if before[name] != after[name]} == {worker.name}


def test_an_endpoint_that_a_killed_run_had_closed_is_opened_again(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    free_port: Callable[[], int],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    port = free_port()
    spec = make_spec(role="endpoint", port=port, argv=("python3", "-c", CLOSES, str(port)))
    roll_out(spec)
    before = _ids(client, deployment)
    client.containers.get(spec.name).kill(signal="SIGUSR1")
    for attempt in Retrying(wait=wait_fixed(0.1), stop=stop_after_delay(30), reraise=True):
        with attempt:
            assert not answers("127.0.0.1", port)
    assert _actions(roll_out(spec)) == ["keep"]
    assert answers("127.0.0.1", port)
    assert _ids(client, deployment) == before


def test_what_a_killed_run_was_draining_serves_again(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    spec = make_spec(role="decode")
    roll_out(spec)
    container = client.containers.get(spec.name)
    assert container.exec_run(["sh", "-c", f"mkdir -p {Path(DRAINING).parent} && touch {DRAINING}"]).exit_code == 0
    assert _actions(roll_out(spec)) == ["keep"]
    assert container.exec_run(["test", "-e", DRAINING]).exit_code == 1


def test_a_d_that_does_not_listen_yet_is_not_waited_for(
    client: DockerClient, make_spec: Callable[..., ContainerSpec]
) -> None:
    spec = make_spec(role="decode", argv=("sleep", "3600"))
    container = containers.start(client, spec)
    assert isinstance(spec.probe, HttpProbe)
    assert drain(container, spec.role, spec.probe, spec.probe, deadline_s=3600) == ""
    assert container.exec_run(["test", "-e", DRAINING]).exit_code == 1


def test_a_container_that_the_inventory_no_longer_has_is_removed(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    etcd, endpoint = make_spec(), make_spec(role="endpoint")
    roll_out(etcd, endpoint)
    roll_out(etcd)
    assert _names(client, deployment) == [etcd.name]


def test_a_missing_model_folder_is_refused_by_the_engine_and_nothing_is_left(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    with pytest.raises(DeployError, match="does not exist"):
        roll_out(make_spec(mounts=(Mount("/nowhere/at/all", "/usr"),)))
    assert _names(client, deployment) == []


def test_a_file_probe_waits_for_the_file_and_the_port(
    client: DockerClient,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
) -> None:
    spec = make_spec()
    port = spec.ports[0]
    ready = FileProbe("/run/ready", "127.0.0.1", port, deadline_s=20)
    shell = f"sleep 1; touch /run/ready; exec python3 -m http.server --bind 127.0.0.1 {port}"
    roll_out(make_spec(argv=("sh", "-c", shell), probe=ready, port=port))
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        pass


def test_containers_run_with_least_privilege(
    client: DockerClient, make_spec: Callable[..., ContainerSpec], roll_out: Callable[..., tuple[Change, ...]]
) -> None:
    spec = make_spec()
    roll_out(spec)
    host_config = client.containers.get(spec.name).attrs["HostConfig"]
    assert host_config["Privileged"] is False
    assert host_config["CapDrop"] == ["ALL"]
    assert host_config["SecurityOpt"] == ["no-new-privileges"]
    assert host_config["Init"] is True


def test_removing_leaves_neither_container_nor_volume_and_doing_it_twice_is_fine(
    client: DockerClient,
    clients: dict[str, DockerClient],
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
    roll_out: Callable[..., tuple[Change, ...]],
    reporter: Reporter,
) -> None:
    spec = make_spec()
    roll_out(spec)
    assert len(client.volumes.list(filters={"label": f"{DEPLOYMENT}={deployment}"})) == 1
    removed = remove_all(clients, deployment, 2, reporter)
    assert [each["name"] for each in removed["containers"]] == [spec.name]
    assert _names(client, deployment) == []
    assert client.volumes.list(filters={"label": f"{DEPLOYMENT}={deployment}"}) == []
    assert remove_all(clients, deployment, 2, reporter) == {"containers": [], "volumes": []}


def test_an_engine_whose_blocks_do_not_travel_is_named(
    client: DockerClient, make_spec: Callable[..., ContainerSpec], free_port: Callable[[], int]
) -> None:
    told = "WARNING 11-26 KV blocks do not travel (error, transport npu); requests are answered"
    port, changes = free_port(), []
    for role, says in (("prefill", told), ("decode", "a KV block went to the DataSystem and back in 3 ms")):
        spec = make_spec(role=role, port=port, argv=("python3", "-c", f"print({says!r})"))
        containers.start(client, spec).wait()
        changes.append(Change("create", HOST, spec.name, "it is not there", spec))
    (found,) = stranded(changes, {HOST: client})
    assert found.startswith(f"{changes[0].name} on {HOST}: {NOT_TRAVELLING} (error, transport npu)")
    assert stranded([replace(change, action="keep") for change in changes], {HOST: client}) == []
    connector = Project.here().root / "connector_src" / "yuanrong" / "trial.py"
    assert f'"{NOT_TRAVELLING} (%s' in connector.read_text(encoding="utf-8")
