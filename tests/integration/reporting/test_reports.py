from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.workshop.bench.raw_results import CONFIGURATION, made_up_run, raw
from workshop.bench.reporting.commands import collect, report
from workshop.bench.reporting.raw import arm_result
from workshop.bench.reporting.regression import regressions
from workshop.bench.reporting.targets import first_token, targets
from workshop.bench.runs.ledger import Ledger
from yrpd.errors import ConfigurationError, VerificationError
from yrpd.project import Project
from yrpd.reporting import Reporter


def made(tmp_path: Path, **options: Any) -> dict[str, Any]:
    return report(Project(tmp_path), Reporter(as_json=True), str(tmp_path / "run"), str(tmp_path / "out"), **options)


def values(document: dict[str, Any]) -> dict[str, float]:
    return {f"{row['name']}, {row['load']}": row["value"] for row in document["targets"]}


def test_opening_requests_are_in_no_figure(tmp_path: Path) -> None:
    made_up_run(tmp_path / "run")
    (grouped,) = [case for case in made(tmp_path)["cases"] if case["shape"] == "grouped"]
    (plain,) = [arm for arm in grouped["arms"] if arm["arm"] == "baseline"]
    parts = plain["first_token_s"]
    assert parts["client"] == pytest.approx(0.8)
    assert parts["engine"] == pytest.approx(0.79)
    assert parts["queue"] == pytest.approx(0.08)
    assert parts["prefill"] == pytest.approx(0.4)
    assert parts["load"] == pytest.approx(0.04)
    assert plain["hit_rate"]["device"] == pytest.approx(0.2)
    assert plain["prompts_per_second"]["value"] == pytest.approx(1 / 0.8)


def test_behind_a_router_half_of_an_opening_request_is_the_counted_engines(tmp_path: Path) -> None:
    pair = raw("pair", 0.5, 0.0, 0.0)
    for piece in pair["pieces"]:
        piece["counters"]["vllm:time_to_first_token_seconds_sum"] = 5 * 0.2 + 2 * 4.5
    assert first_token(arm_result([pair], 100))["engine"] == pytest.approx(0.2)


def test_every_target_is_the_share_of_what_is_possible(tmp_path: Path) -> None:
    made_up_run(tmp_path / "run")
    document = made(tmp_path)
    assert values(document) == pytest.approx(
        {
            "hit rate / ceiling, c1": 1.0,
            "hit rate / ceiling, multi-turn c1": 0.9,
            "throughput gain / ideal gain, c1": 1.0,  # 0.8 / 0.5 = 1.6 = (1 - 0.2) / (1 - 0.5)
            "TTFT cut / ideal cut, c1": 1.0,  # 37.5 % = 1 - 0.5 / 0.8
            "throughput gain / gain of a device cache that holds everything, c1": 0.8,  # 0.4 / 0.5
            "TTFT cut / cut of a device cache that holds everything, c1": 0.75,  # 0.8 - 0.5 of 0.8 - 0.4
            "TTFT on a full DataSystem hit / on a full local hit, c1": 1.2,
            "TTFT without reuse, ours / plain vLLM, c1": 1.01,
            "TTFT with 90 % reuse, ours / plain vLLM without reuse, c1": 0.14,
            "TTFT with 90 % reuse, ours / in a device cache that holds everything, c1": 1.12,
            "answers equal to plain vLLM's, grouped c1": 1.0,
            "answers equal to plain vLLM's, repeated c1": 1.0,
            "answers equal to plain vLLM's, unique c1": 1.0,
            "answers equal to plain vLLM's, document c1": 1.0,
            "answers equal to plain vLLM's, multi-turn c1": 1.0,
        },
        abs=0.002,
    )
    missed = [f"{row['name']}, {row['load']}" for row in document["targets"] if not row["met"]]
    assert missed == [
        "hit rate / ceiling, multi-turn c1",
        "throughput gain / gain of a device cache that holds everything, c1",
        "TTFT cut / cut of a device cache that holds everything, c1",
    ]
    assert json.loads((tmp_path / "out" / "latest.json").read_text()) == document
    assert {"name", "length", "value", "target", "met"} <= set(document["targets"][0])
    assert document["command"] == "invoke bench --profile made-up"
    assert document["environment"]["packages"] == {"vllm": "0.10.0"}


def test_the_figure_shows_the_load_with_the_most_lengths(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path / "run", CONFIGURATION, "c")
    for name, length in (("grouped-1024-c1", 1024), ("grouped-2048-c1", 2048), ("grouped-1024-c8", 1024)):
        arms = {"baseline": raw("baseline", 1234.5, 0.2, 0.0, length=length)}
        ledger.add(name, 0, arms | {"single": raw("single", 0.5, 0.1, 0.4, length=length)})
    made(tmp_path)
    figure = (tmp_path / "out" / "latest.svg").read_text()
    for words in ("1K", "2K", "one request at a time", "with the DataSystem", "1,234,500"):
        assert words in figure, words


def test_a_report_made_again_from_the_same_files_is_the_same_and_its_page_and_figure_too(tmp_path: Path) -> None:
    made_up_run(tmp_path / "run")
    made(tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    made(tmp_path)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(first) == {"latest.json", "latest.md", "latest.png", "latest.svg"}
    page = first["latest.md"].decode()
    assert "| hit rate / ceiling | 1000 | c1 | 1.000 |" in page
    assert "800 (800 .. 800)" in page  # baseline's mean TTFT in ms


@pytest.mark.parametrize("change", ["ttfts", "missing"])
def test_a_doctored_result_is_refused(tmp_path: Path, change: str) -> None:
    made_up_run(tmp_path / "run")
    path = tmp_path / "run" / "grouped-1000-c1" / "1-single.json"
    if change == "missing":
        path.unlink()
    else:
        document = json.loads(path.read_text())
        document["pieces"][0]["result"]["ttfts"][3] = 0.0001
        path.write_text(json.dumps(document))
    with pytest.raises(VerificationError, match=r"1-single\.json"):
        made(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_run_with_a_failed_request_is_refused(tmp_path: Path) -> None:
    bad = raw("single", 0.5, 0.1, 0.4)
    bad["pieces"][0]["result"]["errors"][4] = "Service Unavailable"
    with pytest.raises(VerificationError, match="Service Unavailable"):
        arm_result([bad], 100)


def test_prompts_of_another_length_than_they_were_made_with_are_refused() -> None:
    bad = raw("single", 0.5, 0.1, 0.4)
    bad["pieces"][1]["result"]["input_lens"][4] += 30
    with pytest.raises(VerificationError, match="other lengths"):
        arm_result([bad], 100)


def test_one_other_answer_misses_the_target(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path / "run", CONFIGURATION, "")
    ours = raw("single", 0.5, 0.1, 0.4)
    ours["pieces"][1]["result"]["generated_texts"][2] = "no"
    ledger.add("grouped-1000-c1", 0, {"baseline": raw("baseline", 0.8, 0.2, 0.0), "single": ours})
    answers = next(row for row in targets(collect(ledger)) if row.name.startswith("answers"))
    assert answers.estimate.value == pytest.approx(0.9)
    assert not answers.met


def test_plain_vllm_that_finds_a_part_itself_is_no_measure_of_no_reuse(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path / "run", CONFIGURATION, "")
    arms = {"baseline": raw("baseline", 1.0, 0.1, 0.0, "document"), "single": raw("single", 1.0, 0.1, 0.3, "document")}
    ledger.add("document-1000-c1", 0, arms)
    assert [row.name for row in targets(collect(ledger))] == ["answers equal to plain vLLM's"]


def test_a_figure_that_became_worse_is_named_and_one_that_did_not_is_not(tmp_path: Path) -> None:
    made_up_run(tmp_path / "run")
    stored = made(tmp_path)
    assert regressions(stored, stored) == []
    made_up_run(tmp_path / "slow" / "run", slower=1.2)
    slow = report(Project(tmp_path), Reporter(as_json=True), str(tmp_path / "slow" / "run"), str(tmp_path / "slow"))
    worse = regressions(slow, stored)
    assert len(worse) == 8
    assert "TTFT cut / ideal cut at 1000 (c1): 1.000 became 0.667" in worse
    assert regressions(stored, slow) == []
    with pytest.raises(VerificationError, match="8 figures are worse"):
        report(
            Project(tmp_path), Reporter(as_json=True), str(tmp_path / "slow" / "run"), str(tmp_path / "slow"),
            against=str(tmp_path / "out" / "latest.json"),
        )  # fmt: skip


def test_a_target_that_is_not_measured_any_more_is_a_regression(tmp_path: Path) -> None:
    made_up_run(tmp_path / "run")
    stored = made(tmp_path)
    less = {**stored, "targets": stored["targets"][1:]}
    assert regressions(less, stored) == ["hit rate / ceiling at 1000 (c1): not measured any more"]


def test_reports_of_different_models_do_not_compare(tmp_path: Path) -> None:
    made_up_run(tmp_path / "run")
    stored = made(tmp_path)
    other = {**stored, "environment": {**stored["environment"], "model_digest": "another"}}
    with pytest.raises(ConfigurationError, match="model_digest"):
        regressions(stored, other)


def test_what_was_measured_stands_beside_the_model(tmp_path: Path) -> None:
    """In the made-up run a token costs a millisecond and nothing else does, loads included."""
    made_up_run(tmp_path / "run")
    model = made(tmp_path)["model"]
    rows = {row["shape"]: row for row in model["rows"]}
    assert set(rows) == {"grouped", "unique", "document"}  # repeated prompts have no small cache to compare with
    assert rows["grouped"] == pytest.approx(
        {
            "shape": "grouped", "length": 1000, "plain": 0.8, "plain_model": 0.8, "ours": 0.5, "model": 0.5,
            "limit": 0.5, "cut": 0.375, "limit_cut": 0.375, "ideal_cut": 0.375,
        },
        abs=1e-6,
    )  # fmt: skip
    page = (tmp_path / "out" / "latest.md").read_text(encoding="utf-8")
    assert "| grouped | 1000 | 800.0 | 800.0 | 500.0 | 500.0 | 500.0 | 37.5% | 37.5% | 37.5% |" in page


def test_a_run_without_requests_one_at_a_time_has_no_model(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path / "run", CONFIGURATION, "invoke bench --profile made-up")
    ledger.add(
        "grouped-1000-c8", 0, {"baseline": raw("baseline", 0.8, 0.2, 0.0), "single": raw("single", 0.5, 0.1, 0.4)}
    )
    assert made(tmp_path)["model"] == {}
    assert "Against the model" not in (tmp_path / "out" / "latest.md").read_text(encoding="utf-8")


def test_the_published_report_names_no_folder_of_the_machine_that_measured_it() -> None:
    stored = json.loads((Project.here().root / "docs" / "bench" / "latest.json").read_text(encoding="utf-8"))
    words = [word for lines in stored["environment"]["engines"].values() for line in lines for word in line]
    assert "qwen2_wide" in words
    assert [word for word in words if word.startswith("/")] == []
