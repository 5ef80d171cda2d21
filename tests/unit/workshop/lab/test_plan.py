"""What the lab would do, from what it sees. Nothing here needs a network, an engine or root."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workshop.lab.engine import containerd_configuration, dockerd_configuration, engine_files, major_version
from workshop.lab.layout import Lab, LabHost, read_overlay
from workshop.lab.observe import Link, Observation, Route, read_gateway, read_links, read_mounts, read_routes
from workshop.lab.plan import (
    End,
    Run,
    Start,
    Write,
    overlapping_route,
    plan_disk,
    plan_engine,
    plan_network,
    plan_views,
)
from workshop.lab.processes import Process
from yrpd.errors import ConfigurationError

LAB = Lab("yrpd-lab", (LabHost("host1", IPv4Address("10.77.0.1")), LabHost("host2", IPv4Address("10.77.0.2"))))
PARTS = ("switch", "host1", "host2")
LO = Link("lo", up=True)


def whole() -> Observation:
    """Return the lab as it is when nothing is missing."""
    ports = tuple(Link(name, up=True, master="br0") for name in ("host1", "host2", "machine"))
    processes = []
    for number, host in enumerate(LAB.hosts):
        files = engine_files(LAB.folders(host.name))
        processes.append(Process(10 + number, 1, 1, ("dockerd", "--config-file", str(files.dockerd))))
        processes.append(Process(20 + number, 1, 1, ("/usr/bin/containerd", "--config", str(files.containerd))))
    return Observation(
        namespaces={part: number for number, part in enumerate(PARTS, 100)},
        links={
            "": (Link("yrpd-lab", up=True, addresses=("10.77.0.254/24",)),),
            "switch": (LO, Link("br0", up=True), *ports),
            "host1": (LO, Link("eth0", up=True, addresses=("10.77.0.1/24",))),
            "host2": (LO, Link("eth0", up=True, addresses=("10.77.0.2/24",))),
        },
        gateways={"host1": "10.77.0.254", "host2": "10.77.0.254"},
        processes=tuple(processes),
    )


def test_a_whole_lab_needs_nothing() -> None:
    assert plan_network(LAB, whole()) == ()
    assert plan_engine(LAB, "host1", whole(), major=20) == ()


def test_the_network_is_joined_without_touching_rules_or_settings() -> None:
    steps = plan_network(LAB, Observation())
    assert all(isinstance(step, Run) and step.argv[0] == "ip" for step in steps)
    on_the_machine = [step.argv for step in steps if isinstance(step, Run) and step.argv[1] in ("link", "address")]
    own = [argv for argv in on_the_machine if argv[:3] != ("ip", "link", "add") or argv[3] != "eth0"]
    assert [argv for argv in own if "yrpd-lab" not in argv] == []


def mended(seen: Observation, part: str, name: str) -> list[str]:
    links = {**seen.links, part: tuple(link for link in seen.links[part] if link.name != name)}
    return [step.what for step in plan_network(LAB, replace(seen, links=links))]


def test_only_what_is_missing_is_made() -> None:
    assert mended(whole(), "host2", "eth0") == [
        "host2: plug it into the switch",
        "host2: give it address 10.77.0.2/24",
        "host2: set its interface up",
    ]
    assert mended(whole(), "", "yrpd-lab") == [
        "machine: plug it into the switch",
        "machine: give it address 10.77.0.254/24",
        "machine: set its interface up",
    ]
    assert mended(whole(), "host1", "lo") == ["host1: set loopback up"]


def test_a_host_without_its_default_route_gets_it() -> None:
    lost = replace(whole(), gateways={"host1": "10.77.0.254"})
    (step,) = plan_network(LAB, lost)
    assert isinstance(step, Run)
    assert step.argv == ("ip", "-n", "yrpd-lab-host2", "route", "replace", "default", "via", "10.77.0.254")
    routes = [{"dst": "10.77.0.0/24", "dev": "eth0"}, {"dst": "default", "gateway": "10.77.0.254", "dev": "eth0"}]
    assert read_gateway(routes) == "10.77.0.254"
    assert read_gateway(routes[:1]) == ""


def test_only_new_hosts_get_a_disk_of_their_own() -> None:
    grown = Lab(LAB.name, (*LAB.hosts, LabHost("host3", IPv4Address("10.77.0.3"))))
    steps = [step for host in grown.hosts for step in plan_disk(grown, host.name, whole(), 16)]
    assert {step.what.partition(":")[0] for step in steps} == {"host3"}
    mounted = replace(whole(), mounts=(grown.folders("host3").data,))
    assert plan_disk(grown, "host3", mounted, 16) == plan_disk(grown, "host3", whole(), 0) == ()


def test_new_hosts_alone_see_other_files_and_their_engines_start_there(tmp_path: Path) -> None:
    (tmp_path / "host1" / "etc").mkdir(parents=True)
    (tmp_path / "host2" / "usr").mkdir(parents=True)
    over = read_overlay(tmp_path, LAB)
    seen = Observation(namespaces={"host2": 101})
    steps = plan_views(LAB, seen, over)
    argvs = [step.argv for step in steps if isinstance(step, Run)]
    assert argvs[0][:2] == ("mount", "--bind")
    assert {step.what.partition(":")[0] for step in steps} == {"host1", "machine"}
    assert argvs[-1][:5] == ("nsenter", "--mount=/run/yrpd-lab/views/host1", "mount", "-t", "overlay")
    assert argvs[-1][-1] == "/etc"
    bound = replace(seen, mounts=(LAB.views,))
    assert ("mount", "--bind") not in [step.argv[:2] for step in plan_views(LAB, bound, over) if isinstance(step, Run)]
    started = [
        step.argv for step in plan_engine(LAB, "host1", seen, major=20, overlaid=True) if isinstance(step, Start)
    ]
    assert all("--mount=/run/yrpd-lab/views/host1" in argv for argv in started)
    again = replace(seen, mounts=(LAB.views, LAB.view("host1")))
    healed = [step.argv for step in plan_engine(LAB, "host1", again, major=20) if isinstance(step, Start)]
    assert healed == started


def test_an_overlay_that_no_host_would_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="host1/etc"):
        read_overlay(tmp_path / "none", LAB)
    (tmp_path / "host9" / "etc").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="host1/etc"):
        read_overlay(tmp_path, LAB)
    (tmp_path / "host1" / "etc").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="host9, which is no host of yrpd-lab"):
        read_overlay(tmp_path, LAB)


def test_a_dead_name_is_removed_before_its_namespace_is_made_again() -> None:
    seen = replace(whole(), namespaces={"switch": 1, "host1": 2}, dead_names=("host2",))
    steps = [step.argv for step in plan_network(LAB, seen) if isinstance(step, Run)]
    delete, add = ("ip", "netns", "delete", "yrpd-lab-host2"), ("ip", "netns", "add", "yrpd-lab-host2")
    assert steps.index(delete) < steps.index(add)


def test_an_interface_made_again_keeps_its_hardware_address() -> None:
    adds = [s.argv for s in plan_network(LAB, Observation()) if isinstance(s, Run) and "peer" in s.argv]
    macs = [argv[argv.index("address") + 1] for argv in adds]
    assert macs == ["02:00:0a:4d:00:01", "02:00:0a:4d:00:02", "02:00:0a:4d:00:fe"]


def test_engines_start_inside_their_namespace_and_the_builder_on_the_machine() -> None:
    host = [step.argv for step in plan_engine(LAB, "host1", Observation(), major=20) if isinstance(step, Start)]
    assert [argv[:3] for argv in host] == [
        ("nsenter", "--net=/run/netns/yrpd-lab-host1", "containerd"),
        ("nsenter", "--net=/run/netns/yrpd-lab-host1", "dockerd"),
    ]
    builder = [step.argv[0] for step in plan_engine(LAB, "builder", Observation(), major=20) if isinstance(step, Start)]
    assert builder == ["containerd", "dockerd"]


@pytest.mark.parametrize("left", [10, 20])
def test_half_an_engine_is_ended_and_started_whole(left: int) -> None:
    seen = replace(whole(), processes=tuple(p for p in whole().processes if p.pid in (left, 11, 21)))
    steps = plan_engine(LAB, "host1", seen, major=20)
    assert isinstance(steps[0], End)
    assert [process.pid for process in steps[0].processes] == [left]
    assert sum(isinstance(step, Start) for step in steps) == 2


def test_an_engine_is_told_to_leave_the_machine_alone() -> None:
    options = json.loads(dockerd_configuration(LAB, "host1", major=20))
    assert (options["bridge"], options["iptables"], options["ip6tables"], options["ip-forward"]) == (
        "none",
        *[False] * 3,
    )
    assert options["containerd"] == "/run/yrpd-lab/host1/containerd.sock"
    paths = [value for value in options.values() if isinstance(value, str) and value.startswith("/")]
    assert all(path.startswith(("/run/yrpd-lab/", "/var/lib/yrpd-lab/", "/yrpd-lab/")) for path in paths)
    assert "deprecated-key-path" not in json.loads(dockerd_configuration(LAB, "host1", major=23))
    settings = tomllib.loads(containerd_configuration(LAB.folders("host1")))
    assert settings["grpc"]["address"] == options["containerd"]
    assert Path(settings["root"]).is_relative_to(LAB.data)


@pytest.mark.parametrize(
    ("said", "major"),
    [("Docker version 20.10.24+dfsg1, build 5d6db84", 20), ("Docker version 28.1.1, build 4eba377", 28), ("what?", 0)],
)
def test_the_engines_major_version_is_read(said: str, major: int) -> None:
    assert major_version(said) == major


@given(st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_a_route_is_in_the_way_exactly_when_it_shares_an_address(length: int, number: int) -> None:
    destination = IPv4Network((number, length), strict=False)
    found = overlapping_route(LAB.network, (Route(destination, "eth0"),), "yrpd-lab")
    shares = destination.broadcast_address >= LAB.network.network_address and (
        destination.network_address <= LAB.network.broadcast_address
    )
    assert (found is not None) == shares
    assert overlapping_route(LAB.network, (Route(destination, "yrpd-lab"),), "yrpd-lab") is None


def test_what_ip_says_is_read() -> None:
    links = read_links(
        [
            {"ifname": "lo", "flags": ["UP"], "addr_info": [{"family": "inet6", "local": "::1", "prefixlen": 128}]},
            {"ifname": "eth0", "flags": [], "master": "br0",
             "addr_info": [{"family": "inet", "local": "10.0.0.1", "prefixlen": 24}]},
            {},
        ]
    )  # fmt: skip
    assert links == (Link("lo", up=True), Link("eth0", up=False, addresses=("10.0.0.1/24",), master="br0"))
    routes = read_routes([{"dst": "default", "dev": "eth0"}, {"dst": "10.0.0.5", "dev": "x"}, {"dst": "10.1.0.0/16"}])
    assert routes == (Route(IPv4Network("10.0.0.5/32"), "x"), Route(IPv4Network("10.1.0.0/16"), ""))


def test_mounts_are_read_with_their_escapes() -> None:
    text = (
        "43 42 0:4 net:[4026532177] /run/netns/yrpd-lab-host1 rw shared:2 - nsfs nsfs rw\n"
        "44 27 254:0 /a\\040b /var/lib/a\\040b rw,relatime - ext4 /dev/vda rw\n"
    )
    first, second = read_mounts(text)
    assert (first.point, first.kind, first.root) == (Path("/run/netns/yrpd-lab-host1"), "nsfs", "net:[4026532177]")
    assert (second.point, second.root) == (Path("/var/lib/a b"), "/a b")


def test_the_lab_weighs_more_than_a_shell_where_groups_are_weighed() -> None:
    file = Path("/sys/fs/cgroup/cpu/yrpd-lab/cpu.shares")
    steps = plan_engine(LAB, "host1", Observation(cpu_weight=(file, 8192)), major=20)
    (weigh,) = (step for step in steps if isinstance(step, Write) and step.path == file)
    assert weigh.content == "8192"
    assert steps.index(weigh) < next(steps.index(step) for step in steps if isinstance(step, Start))
    assert not any("weigh" in step.what for step in plan_engine(LAB, "host1", Observation(), major=20))
