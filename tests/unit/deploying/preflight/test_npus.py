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
