"""The hosts file as the lab reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from workshop.lab.layout import Lab, named_lab, read_lab
from yrpd.errors import ConfigurationError
from yrpd.project import Project

HOST = '[[hosts]]\nname = "{name}"\naddress = "{address}"\nengine = "{engine}"\nanything = "else"\n'


def written(folder: Path, *hosts: tuple[str, str, str]) -> Path:
    path = folder / "hosts.toml"
    text = "".join(HOST.format(name=n, address=a, engine=e) for n, a, e in hosts)
    path.write_text(f"unknown = 1\n{text}", encoding="utf-8")
    return path


def engine(host: str, lab: str = "yrpd-lab") -> str:
    return f"unix:///run/{lab}/{host}/docker.sock"


def test_the_shipped_lab_file_describes_two_hosts() -> None:
    lab = read_lab(Project.here().root / "lab.toml")
    assert lab.name == "yrpd-lab"
    assert [(host.name, str(host.address)) for host in lab.hosts] == [("host1", "10.77.0.1"), ("host2", "10.77.0.2")]
    assert str(lab.network) == "10.77.0.0/24"
    assert str(lab.machine_address) == "10.77.0.254"
    assert lab.folders("host1").engine == engine("host1")
    assert lab.namespace("switch") == "yrpd-lab-switch"


def test_hosts_elsewhere_are_not_the_labs(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ("far", "192.0.2.7", "ssh://root@192.0.2.7"),
        ("host1", "10.9.0.1", engine("host1", "yrpd-nine")),
        ("own", "10.9.0.3", "unix:///var/run/docker.sock"),
    )
    lab = read_lab(path)
    assert (lab.name, [host.name for host in lab.hosts]) == ("yrpd-nine", ["host1"])


@pytest.mark.parametrize(
    ("hosts", "why"),
    [
        ([], "hosts: Field required"),
        ([("a", "10.0.0.1", "ssh://a")], "describes no lab"),
        ([("a", "10.0.0.1", engine("b"))], "not that of a lab host of its name"),
        ([("builder", "10.0.0.1", engine("builder"))], "not that of a lab host of its name"),
        ([("switch", "10.0.0.1", engine("switch"))], "not that of a lab host of its name"),
        ([("a", "10.0.0.1", engine("a")), ("b", "10.0.0.2", engine("b", "yrpd-x"))], "mixes hosts of several labs"),
        ([("a", "10.0.0.1", engine("a")), ("b", "10.0.1.2", engine("b"))], "outside the first host's subnet"),
        ([("a", "10.0.0.1", engine("a")), ("b", "10.0.0.1", engine("b"))], "is host 'a''s"),
        ([("a", "10.0.0.1", engine("a")), ("a", "10.0.0.2", engine("a"))], "is there twice"),
        ([("a", "10.0.0.254", engine("a"))], "the machine's own address"),
        ([("a", "10.0.0.255", engine("a"))], "broadcast"),
        ([("a", "8.8.8.8", engine("a"))], "not a private address"),
        ([("a", "127.0.0.1", engine("a"))], "not a private address"),
        ([("a", "fe80::1", engine("a"))], "not an IPv4 address"),
        ([("a", "10.0.0.1", engine("a", "yrpd-much-too-long-name"))], "no name for a lab"),
    ],
)
def test_a_wrong_hosts_file_is_refused_with_the_reason(
    tmp_path: Path, hosts: list[tuple[str, str, str]], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why) as failure:
        read_lab(written(tmp_path, *hosts))
    assert failure.value.exit_code == 2
    assert failure.value.next_command


@pytest.mark.parametrize(
    ("text", "why"),
    [("hosts = [", "not valid TOML"), ("", "hosts: Field required"), ('[[hosts]]\nname = "a"\n', "hosts.0.address")],
)
def test_a_damaged_hosts_file_is_refused_with_the_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=why):
        read_lab(path)
    with pytest.raises(ConfigurationError, match="does not exist"):
        read_lab(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "name", ["docker", "..", "", "yrpd-", "yrpd-a/b", "yrpd-..", "containerd", "yrpd_lab", "yrpd-lab\n"]
)
def test_a_lab_never_takes_a_name_whose_folders_could_be_somebody_elses(name: str) -> None:
    with pytest.raises(ConfigurationError):
        named_lab(name)


def test_names_fit_the_kernels_limit_for_interfaces() -> None:
    assert len(named_lab("yrpd-0123456789").interface) == 15
    with pytest.raises(ConfigurationError):
        named_lab("yrpd-01234567890")
    assert Lab().interface == "yrpd-lab"
