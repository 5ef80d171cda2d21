from __future__ import annotations

import json
from pathlib import Path

import pytest

from workshop.bench.dataset.caching import expect
from workshop.bench.dataset.commands import Wanted, make_shape
from workshop.bench.dataset.shapes import Part
from workshop.bench.runs import counted
from workshop.bench.runs.generator import argv
from workshop.bench.runs.ledger import Ledger
from workshop.bench.runs.profiles import (
    BASELINE,
    EIGHT,
    LARGE,
    ONE,
    OUTPUT_TOKENS,
    PAIR,
    SINGLE,
    Case,
    choose,
    profile_named,
)
from workshop.bench.runs.servers import Engine, command_lines
from yrpd.errors import ConfigurationError

MODEL = Path("/models/m")


def lines(arm: str) -> list[list[str]]:
    found = command_lines(profile_named("full"), arm, MODEL, "float32", (8000, 8001), "127.0.0.1:31501", "t")
    return [list(line) for line in found]


def options(arm: str) -> list[str]:
    (line,) = lines(arm)
    return line


def test_arms_alternate_so_that_a_drift_favours_none() -> None:
    case = Case(Wanted(), ONE, (BASELINE, SINGLE), 4)
    assert case.order() == [[BASELINE, SINGLE], [SINGLE, BASELINE]] * 2


def test_arms_take_turns_within_a_round_and_every_prompt_is_sent_once() -> None:
    case = Case(Wanted("grouped", 2048), ONE, (BASELINE, SINGLE), 2)
    for number, prompts in ((0, 5), (1, 7), (1, 1)):
        turns = case.turns(number, prompts)
        assert [n for start, stop, _ in turns for n in range(start, stop)] == list(range(prompts))
        assert [arms for *_, arms in turns] == [case.order()[(number + place) % 2] for place in range(len(turns))]
    assert [stop - start for start, stop, _ in case.turns(0, 5)] == [2, 2, 1]
    overlapping = Case(Wanted("grouped", 4096), EIGHT, (BASELINE, SINGLE), 2)
    assert overlapping.turns(1, 5) == [(0, 5, [SINGLE, BASELINE])]


@pytest.mark.parametrize("name", ["quick", "full"])
def test_every_repetition_is_measured_once_and_in_full_by_engines_of_its_own(name: str) -> None:
    profile = profile_named(name)
    lacking = [(case, number) for case in profile.cases for number in range(case.rounds)][1:]  # one is there already
    starts = profile.starts(lacking)
    assert sorted(map(lacking.index, [each for start in starts for each in start])) == list(range(len(lacking)))
    numbers = [{number for _, number in start} for start in starts]
    assert numbers == ([{0}, {1}, {2}] if name == "full" else [{0, 1, 2}])


def test_a_part_is_a_piece_of_the_whole() -> None:
    shape = make_shape(Wanted("grouped", 1024, 3, 4))
    part = Part(shape, 5, 9)
    assert (part.name, part.count, part.longest) == (shape.name, 4, shape.longest)
    assert [part.request(n) for n in range(4)] == [shape.request(n) for n in range(5, 9)]


def test_plain_vllm_and_ours_differ_in_the_connector_alone() -> None:
    plain, ours = options(BASELINE), options(SINGLE)
    extra = ["--scheduler-cls", "--kv-transfer-config"]
    common = [word for place, word in enumerate(ours) if word not in extra and ours[place - 1] not in extra]
    assert sorted(common) == sorted(plain)
    assert "--enable-prefix-caching" in plain
    assert "--no-enable-prefix-caching" not in plain


def test_a_pair_differs_from_ours_in_its_roles_and_shares_blocks_with_nobody_else() -> None:
    prefill, decode = lines(PAIR)
    single = options(SINGLE)
    transfers = []
    for line, port in ((single, "8000"), (prefill, "8000"), (decode, "8001")):
        transfers.append(json.loads(line.pop(line.index("--kv-transfer-config") + 1)))
        assert line.pop(line.index("--port") + 1) == port
        while "--middleware" in line:
            at = line.index("--middleware")
            del line[at : at + 2]
    assert single == prefill == decode
    assert [each["kv_role"] for each in transfers] == ["kv_both", "kv_producer", "kv_consumer"]
    tags = [each["kv_connector_extra_config"]["tag"] for each in transfers]
    assert tags[1] == tags[2] != tags[0]


def test_the_large_arm_differs_from_plain_vllm_in_its_cache_alone() -> None:
    plain, large = options(BASELINE), options(LARGE)
    differing = [(a, b) for a, b in zip(plain, large, strict=True) if a != b]
    assert len(differing) == 1
    assert int(differing[0][1]) > 10 * int(differing[0][0])


@pytest.mark.parametrize("name", ["quick", "full", "smoke"])
def test_every_case_of_a_profile_fits_the_device_cache_and_overflows_it(name: str) -> None:
    profile = profile_named(name)
    for case in profile.cases:
        shape = make_shape(case.wanted)
        found = expect(shape, profile.device_blocks - 1, profile.block_size, OUTPUT_TOKENS)
        if case.wanted.shape != "unique":
            assert found.device < found.ceiling
        if LARGE not in profile.arms:
            continue
        large = expect(shape, profile.large_blocks - 1, profile.block_size, OUTPUT_TOKENS)
        assert large.device == large.ceiling


def test_the_full_profile_keeps_the_figures_ceiling_and_its_hit_rates_without_a_datasystem() -> None:
    profile = profile_named("full")
    figure = {1024: 0.285, 2048: 0.165, 4096: 0.085, 8192: 0.056}
    for case in profile.cases:
        if case.wanted.shape == "grouped":
            found = expect(make_shape(case.wanted), profile.device_blocks - 1, profile.block_size, OUTPUT_TOKENS)
            assert found.ceiling_rate == pytest.approx(0.45)
            assert found.device_rate == pytest.approx(figure[case.wanted.length], abs=0.08)


def test_cases_are_chosen_by_name() -> None:
    profile = profile_named("full")
    assert choose(profile, "") == profile.cases
    assert {case.name for case in choose(profile, "^grouped-4096")} == {"grouped-4096-c1"}
    for wrong in ("no such case", "("):
        with pytest.raises(ConfigurationError):
            choose(profile, wrong)


def test_full_hits_and_documents_are_never_found_in_the_device_cache() -> None:
    for name in ("quick", "full"):
        profile = profile_named(name)
        for case in profile.cases:
            if case.wanted.shape in ("repeated", "document"):
                found = expect(make_shape(case.wanted), profile.device_blocks - 1, profile.block_size, OUTPUT_TOKENS)
                assert found.device == 0, case.name


def test_a_closed_loop_names_its_concurrency_and_an_open_one_its_rate() -> None:
    engine = Engine(SINGLE, "http://127.0.0.1:1", "http://127.0.0.1:2")
    closed = argv(engine, MODEL, Path("/d.jsonl"), 31, EIGHT.concurrency, 0.0, Path("/r/x.json"))
    opened = argv(engine, MODEL, Path("/d.jsonl"), 31, 0, 1.5, Path("/r/x.json"))
    assert closed[-2:] == ["--max-concurrency", "8"]
    assert opened[-2:] == ["--request-rate", "1.5"]
    assert "--custom-skip-chat-template" in closed
    assert "--ignore-eos" in closed


def test_an_interrupted_run_goes_on_with_a_salt_that_was_never_used(tmp_path: Path) -> None:
    first = Ledger.begin(tmp_path, {"profile": "p"}, "c")
    salts = [first.attempt(), first.attempt()]
    first.add("grouped-1-c1", 0, {"single": {"a": 1}})
    again = Ledger.begin(tmp_path, {"profile": "p"}, "c")
    assert again.has("grouped-1-c1", 0)
    assert not again.has("grouped-1-c1", 1)
    assert again.attempt() not in salts


def test_a_run_goes_on_with_what_json_makes_of_its_configuration(tmp_path: Path) -> None:
    Ledger.begin(tmp_path, {"engines": {"pair": [("vllm", "serve")]}}, "c")
    again = Ledger.begin(tmp_path, {"engines": {"pair": [("vllm", "serve")]}}, "c")
    assert again.document["attempts"] == 0


def test_a_run_does_not_go_on_with_another_configuration(tmp_path: Path) -> None:
    Ledger.begin(tmp_path, {"profile": "p", "connector": "a"}, "c")
    with pytest.raises(ConfigurationError, match="another connector"):
        Ledger.begin(tmp_path, {"profile": "p", "connector": "b"}, "c")


def test_a_run_of_another_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 1}')
    with pytest.raises(ConfigurationError, match="format 1, not 2") as caught:
        Ledger.begin(tmp_path, {}, "c")
    assert caught.value.next_command == "invoke bench --fresh"


def test_counters_are_summed_over_labels_and_absent_ones_are_nought() -> None:
    text = (
        '# TYPE vllm:prefix_cache_hits counter\nvllm:prefix_cache_hits_total{engine="0"} 5.0\n'
        '# TYPE yuanrong_load_failures counter\nyuanrong_load_failures_total{cause="late"} 1.0\n'
        'yuanrong_load_failures_total{cause="full"} 2.0\n'
    )
    read = counted.read(text)
    assert read["vllm:prefix_cache_hits_total"] == 5
    assert read["yuanrong_load_failures_total"] == 3
    assert read["yuanrong_loaded_blocks_total"] == 0
    assert counted.growth(counted.read(""), read)["vllm:prefix_cache_hits_total"] == 5
