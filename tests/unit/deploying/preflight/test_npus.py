"""What of NPUs stands in the way: named with the line that mends it."""

from __future__ import annotations

import pytest

from yrpd.deploying.preflight import npus

CONF = "address_0=10.1.0.1\nnetmask_0=255.255.255.0\naddress_1=10.1.0.2\n"


def _node(why: str, gid: int = 1001) -> dict[str, object]:
    return {"why": why, "gid": gid, "mode": 0o660}


def test_nodes_that_open_are_no_finding() -> None:
    assert not list(npus.node_findings("one", {"/dev/davinci0": _node("")}))


@pytest.mark.parametrize("why", ["EACCES", "EPERM"])
def test_nodes_of_a_group_that_p_and_d_are_not_in_are_one_finding_with_the_line_to_write(why: str) -> None:
    (found,) = npus.node_findings("one", {"/dev/davinci0": _node(why), "/dev/hisi_hdc": _node(why, 1002)})
    assert (found.id, found.severity) == ("device-permission", "error")
    assert found.problem == "P and D may not open /dev/davinci0 and 1 more: mode 0660, group 1001"
    assert found.fix == "device_groups = [1001, 1002]  # of one, in the inventory"


def test_an_npu_that_somebody_has_and_one_that_is_broken_are_told_apart() -> None:
    busy, broken = npus.node_findings("one", {"/dev/davinci0": _node("EBUSY"), "/dev/davinci1": _node("EIO")})
    assert (busy.id, broken.id) == ("npu-busy", "device")
    assert "in use" in busy.problem
    assert "EIO" in broken.problem


def test_hccn_conf_that_does_not_fit_what_the_npus_say_is_a_warning() -> None:
    (missing,) = npus.hccn_findings("one", None, {"0": "10.1.0.1"})
    assert not list(npus.hccn_findings("one", CONF, {"0": "10.1.0.1", "1": "10.1.0.2"}))
    stale, silent = npus.hccn_findings("one", CONF, {"0": "10.1.0.9", "1": None})
    assert [each.id for each in (missing, stale, silent)] == ["hccn-conf", "hccn-differs", "hccn-tool"]
    assert {each.severity for each in (missing, stale, silent)} == {"warning"}
    assert stale.problem == "/etc/hccn.conf gives NPU 0 the address 10.1.0.1, the NPU has 10.1.0.9"


def test_cards_without_a_network_of_their_own_are_no_finding() -> None:
    assert not list(npus.hccn_findings("one", None, {"0": None, "1": None}))
    assert not list(npus.hccn_findings("one", "", {"0": None}))


# As in https://github.com/1Panel-dev/1Panel/issues/9472, with the processes that other threads show below it.
A2 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.1                   Version: 24.1.1                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B4               | OK            | 88.2        30                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          26838/ 32768         |
+===========================+===============+====================================================+
| 1     910B4               | Alarm         | 87.0        30                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          2935 / 32768         |
+===========================+===============+====================================================+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 4188          | python3                  | 23488                   |
+===========================+===============+====================================================+
"""
# As in https://github.com/vllm-project/vllm-ascend/issues/2534.
A3 = """\
| npu-smi 25.2.0                   Version: 25.2.0                                               |
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     Ascend910           | OK            | 178.5       36                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3416 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           36                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          3195 / 65536         |
+===========================+===============+====================================================+
"""


def test_npu_smi_is_read_two_lines_a_chip() -> None:
    version, chips = npus.read_npu_smi(A2)
    assert version == "24.1.1"
    assert chips == (npus.Chip(0, "910B4", "OK", 26838, 32768), npus.Chip(1, "910B4", "Alarm", 2935, 32768))
    assert [(chip.npu, chip.name) for chip in npus.read_npu_smi(A3)[1]] == [(0, "Ascend910"), (0, "Ascend910")]


def test_an_old_driver_an_npu_in_use_and_one_that_is_ill_are_found() -> None:
    found = {each.id: each for each in npus.smi_findings("one", A2)}
    assert {name: each.severity for name, each in found.items()} == {
        "driver-version": "warning",
        "npu-memory": "warning",
        "npu-health": "error",
    }
    assert "24.1.1" in found["driver-version"].problem
    assert found["npu-memory"].problem == "26838 of 32768 MB of NPU 0 are in use already"
    assert found["npu-health"].problem == "NPU 1 reports Alarm"


def test_hosts_of_another_generation_are_refused() -> None:
    assert [(each.id, each.severity) for each in npus.smi_findings("one", A3)] == [("npu-chip", "error")] * 2
    (found,) = npus.smi_findings("one", A3.replace("Ascend910", "310P3    ").split("+---")[0])
    assert "310P3" in found.problem


def test_a_healthy_idle_a2_is_no_finding() -> None:
    well = A2.replace("24.1.1", "25.0.rc1.1").replace("Alarm", "OK   ").replace("26838/", "2838 /")
    assert not list(npus.smi_findings("one", well))


@pytest.mark.parametrize("text", [None, "", "dcmi module initialize failed. ret is -8005"])
def test_an_npu_smi_that_shows_nothing_is_a_warning(text: str | None) -> None:
    (found,) = npus.smi_findings("one", text)
    assert (found.id, found.severity) == ("npu-smi", "warning")


def test_a_plugin_that_does_not_load_is_a_warning_as_it_is_in_the_engines_own_log() -> None:
    (found,) = npus.plugin_findings("one", "OSError: undefined symbol: RaSocketListenStart")
    assert (found.id, found.severity) == ("datasystem-plugin", "warning")
    assert "RaSocketListenStart" in found.problem
    assert not list(npus.plugin_findings("one", ""))


def test_links_that_are_down_and_switches_that_differ_are_warnings() -> None:
    links: dict[str, dict[str, str | None]] = {
        "0": {"link": "UP", "tls": "0"},
        "4": {"link": "DOWN", "tls": "1"},
        "5": {"link": None, "tls": None},
    }
    down, differ = npus.link_findings("one", links)
    assert (down.id, differ.id) == ("npu-link", "npu-tls")
    assert {down.severity, differ.severity} == {"warning"}
    assert down.problem == "the network of NPU 4 is DOWN"
    assert differ.problem == "its NPUs do not agree on TLS: NPU 0 0, NPU 4 1"


def test_ports_that_hccl_wants_are_a_warning_when_they_are_taken() -> None:
    assert not list(npus.hccl_findings("one", []))
    (found,) = npus.hccl_findings("one", [60000, 60003])
    assert found.problem == "port 60000 and 1 more, which HCCL takes, are in use"
