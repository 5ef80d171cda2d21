"""The benchmark's smallest profile, run as a user would: real engines, real DataSystem, vLLM's own load generator."""

from __future__ import annotations

import json
import shutil

from tests.e2e.running import INVOKE, ROOT, command, tail

RUN = ROOT / "build" / "bench" / "runs" / "smoke"


def test_a_benchmark_finds_what_it_said_answers_as_plain_vllm_and_refuses_a_doctored_result() -> None:
    shutil.rmtree(RUN, ignore_errors=True)
    run = command(INVOKE, "bench", "--profile", "smoke", "--json")
    assert run.code == 0, tail(run)
    (case,) = run.document["cases"]
    rates = {arm["arm"]: arm["hit_rate"] for arm in case["arms"]}
    # Four documents of 192 of 256 tokens, asked about twice; the device cache holds one prompt, blocks have 128 tokens.
    assert case["ceiling"] == 4 * 128 / (8 * 256)
    assert rates == {
        "baseline": {"device": 0.0, "datasystem": 0.0},
        "single": {"device": 0.0, "datasystem": case["ceiling"]},
        "pair": {"device": 0.0, "datasystem": case["ceiling"]},
    }
    answers = {row["load"]: row["value"] for row in run.document["targets"] if row["name"].startswith("answers")}
    assert answers == {"document c1": 1.0, "document c1, 1P1D": 1.0}
    again = command(INVOKE, "bench", "--profile", "smoke", "--json")
    assert again.document == run.document

    path = next(RUN.glob("*/0-single.json"))
    document = json.loads(path.read_text(encoding="utf-8"))
    document["pieces"][0]["result"]["ttfts"][1] /= 2
    path.write_text(json.dumps(document), encoding="utf-8")
    refused = command(INVOKE, "bench.report", "--run", str(RUN), "--out", str(RUN))
    assert refused.code == 9
    assert path.name in refused.err
