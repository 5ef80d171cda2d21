"""``invoke bench*``."""

from __future__ import annotations

from yrpd.options import PIN, Command, Option

_ELSEWHERE = {
    "flavour": "the cpu flavour is measured, on this machine",
    "hosts": "this machine is measured, not an inventory's hosts",
}
_OF_A_DATASET = {
    "pin": "prompts are the same for every pin",
    "flavour": "prompts are the same for both flavours",
    "hosts": "no host is asked",
}
_OF_A_REPORT = {
    "pin": "a run says itself which pin it measured; name the run with --run",
    "flavour": "a run says itself what it measured; name the run with --run",
    "hosts": "no host is asked",
}

COMMANDS = (
    Command(
        "bench.measure",
        "Run vllm bench serve on plain vLLM and ours in alternation; go on where an earlier run was cut.",
        "workshop.bench.serving_commands:bench",
        (
            Option("profile", "quick or full; smoke is for the tests.", "quick"),
            PIN,
            Option("model", "Model folder; the profile's own below build/models when empty."),
            Option("only", "Cases whose name this regular expression is found in, as grouped-4096; all when empty."),
            Option("fresh", "Throw away what an earlier run of the profile measured.", False),
        ),
        refuses=_ELSEWHERE,
        default=True,
    ),
    Command(
        "bench.dataset",
        "Make prompts whose reuse is known, token by token, with their manifest.",
        "workshop.bench.dataset.commands:dataset",
        (
            Option(
                "shape", "grouped (the figure's), tutorial, document, multi-turn, repeated, unique, images.", "grouped"
            ),
            Option("length", "Tokens of the longest prompt.", 1024),
            Option(
                "groups", "Groups, documents, conversations, images or different prompts; 0: the shape's own number.", 0
            ),
            Option("per_group", "Prompts of each; 0: the shape's own number.", 0),
            Option("share", "Share of a prompt that its group has in common, 0 to 1; 0: the shape's own.", 0.0),
            Option("seed", "Decides text and order.", 0),
            Option("salt", "Sets the same dataset apart from itself: nothing of another salt is found again."),
            Option("output", "Tokens to generate for each prompt.", 2),
            Option("vllm_seed", "The --seed that vllm bench serve will be given.", 0),
            Option("model", "Model folder, for its tokenizer and sizes; build/models/qwen2 when empty."),
            Option("out", "Folder for the files; below build/bench/datasets when empty."),
            Option("device_tokens", "Device cache, in tokens, that the expected hit rate is for.", 265_000),
            Option("block_size", "Tokens of a KV block.", 128),
            Option("export", "Also for these, with commas: aiperf, guidellm."),
        ),
        refuses=_OF_A_DATASET,
    ),
    Command(
        "bench.report",
        "Compute tables and figure again from a run's raw results.",
        "workshop.bench.reporting.commands:report",
        (
            Option("run", "Folder of a run; the newest when empty."),
            Option("out", "Folder for the report.", "docs/bench"),
            Option("against", "A stored report (latest.json); figures that became worse are exit code 9."),
        ),
        refuses=_OF_A_REPORT,
    ),
)
