"""The lab on a real machine: real namespaces, real engines, real containers."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.workshop.lab.support import LAB, client, import_image, picture, run_python
from workshop import lab
from workshop.lab import machine, processes
from workshop.lab.engine import engine_files
from workshop.lab.layout import Lab, read_lab
from workshop.lab.observe import observe
from workshop.lab.plan import Start
from yrpd.errors import EnvironmentFailure
from yrpd.project import Project
from yrpd.reporting import Reporter

LISTEN = """
import socket
server = socket.create_server(("{address}", 7000))
print("listening", flush=True)
while True:
    caller, peer = server.accept()
    caller.sendall(peer[0].encode())
    caller.close()
"""
ASK = 'import socket; print(socket.create_connection(("{address}", 7000), timeout=10).recv(100).decode())'
CRASHING_UP = """
import os, signal, sys
from pathlib import Path
from workshop.lab import commands, machine
from yrpd.project import Project
from yrpd.reporting import Reporter
steps = int(sys.argv[2])
execute = machine.execute
def execute_some(step):
    global steps
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    steps -= 1
    execute(step)
machine.execute = execute_some
commands.up(Project(Path(sys.argv[1])), Reporter(), Path(sys.argv[1]) / "lab.toml")
"""
CRASHING_DOWN = """
import os, signal, sys
from pathlib import Path
from workshop.lab import commands, sweep
from yrpd.project import Project
from yrpd.reporting import Reporter
setattr(sweep, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
commands.down(Project(Path(sys.argv[1])), Reporter(), lab_name="yrpd-test")
"""


def crash(program: str, project: Project, argument: object) -> None:
    """Run a program of ours that kills itself half-way."""
    package = Path(lab.__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", program, str(project.root), str(argument)],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def daemons(part: str) -> dict[str, int]:
    """Return the process numbers of a part's dockerd and containerd."""
    files = engine_files(lab.named_lab(LAB).folders(part))
    found = processes.snapshot()
    return {
        name: process.pid
        for name, file in (("dockerd", files.dockerd), ("containerd", files.containerd))
        for process in found
        if process.runs(name, file)
    }


@pytest.mark.usefixtures("clean_machine")
def test_containers_on_two_hosts_talk_under_their_hosts_own_addresses(project: Project, reporter: Reporter) -> None:
    document = lab.up(project, reporter, project.root / "lab.toml")
    assert [(h["name"], h["address"], h["state"]) for h in document["hosts"]] == [
        ("host1", "10.79.0.1", "started"),
        ("host2", "10.79.0.2", "started"),
    ]
    for host in ("host1", "host2"):
        import_image(client(host))
    server = run_python(client("host2"), LISTEN.format(address="10.79.0.2"))
    assert next(server.logs(stream=True, follow=True)) == b"listening\n"
    asker = run_python(client("host1"), ASK.format(address="10.79.0.2"))
    assert asker.wait(timeout=30)["StatusCode"] == 0
    assert asker.logs() == b"10.79.0.1\n"
    # The machine itself reaches the hosts' services too, so an endpoint on host 1 answers a plain curl.
    own = subprocess.run([sys.executable, "-c", ASK.format(address="10.79.0.2")], capture_output=True, check=True)
    assert own.stdout == b"10.79.0.254\n"
    assert client("host1").info()["ID"] != client("host2").info()["ID"]


@pytest.mark.usefixtures("clean_machine")
def test_up_again_keeps_everything_and_heals_what_died(project: Project, reporter: Reporter) -> None:
    lab.up(project, reporter, project.root / "lab.toml")
    import_image(client("host1"))
    sleeper = run_python(client("host1"), "import signal; signal.pause()", name="sleeper")
    numbers = daemons("host1")
    again = lab.up(project, reporter, project.root / "lab.toml")
    assert [h["state"] for h in again["hosts"]] == ["kept", "kept"]
    assert again["steps"] == []
    assert daemons("host1") == numbers

    for victim in ("dockerd", "containerd"):
        os.kill(daemons("host1")[victim], signal.SIGKILL)
        healed = lab.up(project, reporter, project.root / "lab.toml")
        assert [h["state"] for h in healed["hosts"]] == ["started", "kept"]
        assert client("host1").images.get("tiny:1"), "images outlive their engine"
        container = client("host1").containers.get("sleeper")
        assert container.id == sleeper.id
        container.restart(timeout=0)
        assert client("host1").containers.get("sleeper").status == "running"

    # A cable pulled and a host's namespace gone: the network is mended as well.
    machine.run(("ip", "link", "delete", LAB))
    machine.run(("ip", "-n", f"{LAB}-host2", "link", "set", "eth0", "down"))
    assert len(lab.up(project, reporter, project.root / "lab.toml")["reach"]) == 6


@pytest.mark.usefixtures("clean_machine")
def test_a_file_with_more_hosts_adds_them_and_one_with_fewer_is_refused(project: Project, reporter: Reporter) -> None:
    lab.up(project, reporter, project.root / "lab.toml")
    numbers = daemons("host1")
    text = (project.root / "lab.toml").read_text(encoding="utf-8")
    third = f'\n[[hosts]]\nname = "host3"\nengine = "unix:///run/{LAB}/host3/docker.sock"\naddress = "10.79.0.3"\n'
    (project.root / "three.toml").write_text(text + third, encoding="utf-8")
    grown = lab.up(project, reporter, project.root / "three.toml")
    assert [h["state"] for h in grown["hosts"]] == ["kept", "kept", "started"]
    assert len(grown["reach"]) == 12
    assert daemons("host1") == numbers
    assert lab.up(project, reporter, project.root / "three.toml")["steps"] == []
    with pytest.raises(EnvironmentFailure, match=r"host3 10\.79\.0\.3"):
        lab.up(project, reporter, project.root / "lab.toml")


def test_down_removes_running_containers_and_engines_that_were_killed(
    project: Project, reporter: Reporter, clean_machine: dict[str, object]
) -> None:
    lab.up(project, reporter, project.root / "lab.toml")
    lab.builder(project, reporter, lab_name=LAB)
    for part in ("host1", "host2", "builder"):
        import_image(client(part))
        run_python(client(part), "import signal; signal.pause()")
        client(part).containers.run("tiny:1", ["/usr/bin/sleep", "inf"], network_mode="none", detach=True,
                                    volumes={"/usr": {"bind": "/usr", "mode": "ro"}})  # fmt: skip
    os.kill(daemons("host1")["dockerd"], signal.SIGKILL)
    for number in daemons("host2").values():
        os.kill(number, signal.SIGKILL)
    assert lab.down(project, reporter, lab_name=LAB)["state"] == "removed"
    assert picture() == clean_machine


def test_down_finishes_what_any_crash_of_up_left(
    project: Project, reporter: Reporter, clean_machine: dict[str, object]
) -> None:
    total = len(lab.up(project, reporter, project.root / "lab.toml", dry_run=True)["steps"])
    for steps in (0, 1, 6, 8, 12, 20, total - 5, total - 2, total - 1):
        crash(CRASHING_UP, project, steps)
        lab.down(project, reporter, lab_name=LAB)
        assert picture() == clean_machine, f"killed after {steps} steps"


def test_up_goes_on_where_a_crash_cut_it_short(project: Project, reporter: Reporter, clean_machine: object) -> None:
    total = len(lab.up(project, reporter, project.root / "lab.toml", dry_run=True)["steps"])
    for steps in (1, 9, total - 4):
        crash(CRASHING_UP, project, steps)
        assert lab.up(project, reporter, project.root / "lab.toml")["reach"]
        lab.down(project, reporter, lab_name=LAB)


@pytest.mark.parametrize("phase", ["_end_processes", "_unmount", "_remove_network", "_remove_folders"])
def test_down_finishes_what_a_crash_of_down_left(
    phase: str, project: Project, reporter: Reporter, clean_machine: dict[str, object]
) -> None:
    lab.up(project, reporter, project.root / "lab.toml")
    crash(CRASHING_DOWN, project, phase)
    assert lab.down(project, reporter, lab_name=LAB)["state"] == "removed"
    assert picture() == clean_machine


def test_down_with_nothing_there_says_so(project: Project, reporter: Reporter, clean_machine: object) -> None:
    assert lab.down(project, reporter, lab_name=LAB) == {"lab": LAB, "state": "nothing", "steps": []}


def test_a_dry_run_changes_nothing(project: Project, reporter: Reporter, clean_machine: dict[str, object]) -> None:
    assert lab.up(project, reporter, project.root / "lab.toml", dry_run=True)["steps"]
    assert lab.builder(project, reporter, dry_run=True, lab_name=LAB)["steps"]
    assert picture() == clean_machine


@pytest.mark.usefixtures("clean_machine")
def test_another_checkouts_lab_is_left_alone(project: Project, reporter: Reporter, tmp_path: Path) -> None:
    lab.builder(project, reporter, lab_name=LAB)
    other = Project(tmp_path / "other")
    other.root.mkdir()
    (other.root / "lab.toml").write_text((project.root / "lab.toml").read_text())
    commands: tuple[Callable[[], object], ...] = (
        lambda: lab.up(other, reporter, other.root / "lab.toml"),
        lambda: lab.down(other, reporter, lab_name=LAB),
    )
    for command in commands:
        with pytest.raises(EnvironmentFailure, match="from another checkout") as failure:
            command()
        assert str(project.root) in failure.value.next_command
    assert lab.builder(project, reporter, lab_name=LAB)["state"] == "kept"


def test_a_subnet_that_is_taken_is_refused_and_nothing_is_made(
    project: Project, reporter: Reporter, clean_machine: dict[str, object]
) -> None:
    machine.run(("ip", "link", "add", "yrpd-taken", "type", "veth", "peer", "name", "yrpd-taken2"))
    try:
        machine.run(("ip", "address", "add", "10.79.0.9/16", "dev", "yrpd-taken"))
        machine.run(("ip", "link", "set", "yrpd-taken", "up"))
        with pytest.raises(EnvironmentFailure, match=r"10\.79\.0\.0/24 overlaps the route to 10\.79\.0\.0/16"):
            lab.up(project, reporter, project.root / "lab.toml")
    finally:
        machine.run(("ip", "link", "delete", "yrpd-taken"))
    assert picture() == clean_machine


def test_an_engine_that_does_not_start_is_explained_and_taken_away(
    project: Project, reporter: Reporter, clean_machine: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = machine.execute

    def spoil(step: object) -> None:
        execute(step)  # type: ignore[arg-type]
        if isinstance(step, Start) and "containerd" in step.argv and "/host2/" in str(step.log):
            configuration = step.log.with_name("daemon.json")
            configuration.write_text(json.dumps({**json.loads(configuration.read_text()), "no-such-option": 1}))

    monkeypatch.setattr(machine, "execute", spoil)
    with pytest.raises(EnvironmentFailure, match=r"engine of host2 ended: .*no-such-option") as failure:
        lab.up(project, reporter, project.root / "lab.toml")
    assert failure.value.exit_code == 8
    assert picture() == clean_machine


def test_two_commands_at_once_do_not_meet(project: Project, reporter: Reporter, clean_machine: object) -> None:
    described = read_lab(project.root / "lab.toml")
    with described.lock_file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentFailure, match="Another command is working on the lab"):
            lab.up(project, reporter, project.root / "lab.toml")
    described.lock_file.unlink()
    assert observe(described).is_nothing


def _restart_the_machine(described: Lab) -> None:
    """Leave what a restart leaves where /run is on disk: files, dead names, no process."""
    for process in observe(described).processes:
        os.kill(process.pid, signal.SIGKILL)
    processes.end(observe(described).processes, 5)
    for point in reversed(observe(described).mounts):
        machine.run(("umount", "--lazy", str(point)))
    for part in ("host1", "host2", "switch"):
        machine.run(("umount", str(described.namespace_file(part))))
    machine.run(("ip", "link", "delete", LAB))
    described.folders("host1").pid_file.write_text(str(os.getpid()))  # the number is somebody else's now


def test_a_lab_from_before_the_machines_last_start_is_brought_up_anew(
    project: Project, reporter: Reporter, clean_machine: object
) -> None:
    lab.up(project, reporter, project.root / "lab.toml")
    import_image(client("host1"))
    described = read_lab(project.root / "lab.toml")
    _restart_the_machine(described)

    document = lab.up(project, reporter, project.root / "lab.toml")
    assert [h["state"] for h in document["hosts"]] == ["started", "started"]
    assert client("host1").images.get("tiny:1"), "images outlive a restart"


def test_what_another_checkout_left_of_a_lab_that_runs_no_more_is_in_nobodys_way(
    project: Project, reporter: Reporter, clean_machine: object, tmp_path: Path
) -> None:
    lab.up(project, reporter, project.root / "lab.toml")
    import_image(client("host1"))
    keeper = run_python(client("host1"), "import time; time.sleep(600)")
    keeper.update(restart_policy={"Name": "always"})
    described = read_lab(project.root / "lab.toml")
    _restart_the_machine(described)
    other = Project(shutil.copytree(project.root, tmp_path / "other"))

    before = picture()
    assert lab.up(other, reporter, other.root / "lab.toml", dry_run=True)["steps"]
    assert picture() == before
    document = lab.up(other, reporter, other.root / "lab.toml")
    assert [h["state"] for h in document["hosts"]] == ["started", "started"]
    assert client("host1").containers.list(all=True) == []
    assert lab.down(other, reporter, lab_name=LAB)["state"] == "removed"
    assert picture() == clean_machine


def test_a_lab_from_before_the_machines_last_start_is_taken_away_whole(
    project: Project, reporter: Reporter, clean_machine: object
) -> None:
    lab.up(project, reporter, project.root / "lab.toml")
    described = read_lab(project.root / "lab.toml")
    _restart_the_machine(described)
    lab.down(project, reporter, lab_name=LAB)
    assert picture() == clean_machine


@pytest.mark.usefixtures("clean_machine")
def test_the_models_are_made_with_the_environment_of_the_named_pin(project: Project, reporter: Reporter) -> None:
    models = lab.up(project, reporter, project.root / "lab.toml", pin="v0.11.0")["models"]
    assert models["state"] == "skipped"
    assert "v0.11.0/venv-cpu" in models["reasons"][-1]
