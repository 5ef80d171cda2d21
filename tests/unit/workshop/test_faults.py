"""What counts as what in the table of faults, and the table itself. Answers come from functions here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workshop.faults import stream
from workshop.faults.cases import FAULTS, fill
from workshop.faults.commands import choose, earlier, in_order
from workshop.faults.fault_table import BEGIN, END, inserted, markdown
from workshop.faults.known import Known
from workshop.faults.leftovers import unfinished
from workshop.faults.measuring import Row
from workshop.faults.stream import Sent, Stream, tally, verdict_of
from yrpd.deploying.verifying.answers import Answer
from yrpd.deploying.verifying.checks import Yardstick
from yrpd.deploying.verifying.client import AskError, Server
from yrpd.deploying.verifying.questions import COMPLETIONS, Question
from yrpd.deploying.verifying.tolerance import Shape
from yrpd.errors import ConfigurationError, EnvironmentFailure
from yrpd.project import write_json

RIGHT = Answer((7,), (-0.5,), ({7: -0.5},), 130, "x", "length")
WRONG = Answer((8,), (-0.5,), ({8: -0.5},), 130, "y", "length")
KNOWN = Known(
    Server("http://127.0.0.1:1"),
    "model",
    {"chat": Question("chat", COMPLETIONS, {})},
    {"chat": RIGHT},
    Yardstick(Shape(layers=1, hidden=8, intermediate=8, head=8), "float32"),
)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (AskError("status 503", status=503, retry_after="5"), "refused"),
        (AskError("status 503", status=503), "unclean"),
        (AskError("status 500", status=500), "unclean"),
        (AskError("Connection refused", unreached=True), "unreached"),
        (AskError("Connection reset"), "cut"),
        (AskError("the stream broke off"), "cut"),
        (AskError("read timeout", late=True), "hung"),
    ],
)
def test_only_a_503_that_says_when_to_come_again_is_a_refusal(error: AskError, verdict: str) -> None:
    assert verdict_of(error) == verdict


def test_each_answer_is_compared_and_every_request_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    salts: list[str] = []

    def answer(_server: Server, _model: str, _question: Question, salt: str, _timeout: float) -> Answer:
        salts.append(salt)
        if len(salts) == 2:
            raise AskError("status 503", status=503, retry_after="5")
        return WRONG if len(salts) == 3 else RIGHT

    monkeypatch.setattr(stream, "ask", answer)
    monkeypatch.setattr(stream, "ask_streaming", lambda *given: (answer(*given), 0.1, 1))
    monkeypatch.setattr(stream, "PAUSE_S", 0.001)
    monkeypatch.setattr(stream, "AGAIN_S", 0.001)
    with Stream(KNOWN, clients=2) as running:
        assert running.wait_for(5, 0.0, 60)
    sent = running.sent()
    counted = tally(sent)
    assert (counted["refused"], counted["wrong"]) == (1, 1)
    assert counted["right"] == len(sent) - 2 == len(salts) - 2
    assert len(set(salts)) == len(salts), "requests found each other's blocks"


def row(*sent: Sent, loaded: int = 3, left: tuple[str, ...] = ()) -> Row:
    return Row("fault", sent, began=10.0, mending=20.0, mended=30.0, loaded=loaded, left=left)


GOOD = (Sent("a", 9.0, 2.0, "right"), Sent("b", 15.0, 1.0, "refused"), Sent("c", 31.0, 1.0, "right"))


def test_a_row_is_good_only_when_nothing_is_wrong_hung_unclean_or_left() -> None:
    assert row(*GOOD).is_good
    for verdict in ("wrong", "hung", "unclean"):
        assert not row(*GOOD, Sent("d", 12.0, 1.0, verdict)).is_good
    assert not row(*GOOD, left=("a container",)).is_good
    assert not row(*GOOD, loaded=0).is_good
    assert not row(*GOOD[:2]).is_good, "no right answer came after it was mended"
    assert [each.name for each in row(*GOOD).while_it_lasted()] == ["a", "b"]
    assert row(*GOOD).document()["right_again_s"] == 2.0


def test_the_table_has_a_line_for_each_fault_and_the_sums() -> None:
    rows = [row(*GOOD).document(), row(*GOOD, left=("x",)).document()]
    lines = markdown(rows).splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert lines[-1].startswith("| **all** | 6 | 4 | 2 | 0 | 0 | 0 | 0 | 0 | 1 |")
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = inserted(page, markdown(rows))
    assert "old" not in once
    assert inserted(once, markdown(rows)) == once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    with pytest.raises(ValueError, match="missing"):
        inserted("nothing here", "")


def test_faults_are_chosen_by_name() -> None:
    assert choose("") == list(FAULTS)
    assert [fault.name for fault in choose("SIGSTOP of etcd")] == ["SIGSTOP of etcd"]
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for wrong in ("no such fault", "("):
        with pytest.raises(ConfigurationError):
            choose(wrong)


def test_rows_of_earlier_runs_are_kept_for_the_same_image_alone(tmp_path: Path) -> None:
    results = tmp_path / "faults.json"
    assert earlier(results, "one") == {}
    rows = {fault.name: {"fault": fault.name} for fault in reversed(FAULTS)}
    assert [each["fault"] for each in in_order(rows)] == [fault.name for fault in FAULTS]
    write_json(results, {"image": "one", "faults": in_order(rows)})
    assert earlier(results, "one") == rows
    assert earlier(results, "other") == {}


def test_the_machines_own_disk_is_never_filled() -> None:
    with pytest.raises(EnvironmentFailure, match="no disk of its own"):
        fill(Path("/filler"))
    assert not Path("/filler").exists()


@pytest.mark.parametrize(("running", "usage", "problems"), [(0, 0.01, 0), (1, 0.01, 1), (0, 0.03, 1), (2, 0.5, 2)])
def test_requests_and_blocks_that_stay_are_left_behind(running: int, usage: float, problems: int) -> None:
    text = (
        '# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{num_gpu_blocks="100"} 1.0\n'
        f'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{engine="0"}} {running}\n'
        f'# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{{engine="0"}} {usage}\n'
    )
    found: list[Any] = unfinished(text)
    assert len(found) == problems
