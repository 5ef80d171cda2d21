"""``invoke bench*``."""

from __future__ import annotations

from typing import Any

from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.tasks.declaring import command


@command(
    default=True,
    profile="quick or full; smoke is for the tests.",
    model="Model folder; build/models/qwen2 when empty.",
    only="Cases whose name this regular expression is found in, such as grouped-4096; all when empty.",
    fresh="Throw away what an earlier run of the profile measured.",
)
def measure(
    project: Project,
    reporter: Reporter,
    profile: str = "quick",
    model: str = "",
    fresh: bool = False,
    only: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Run vllm bench serve on plain vLLM and ours in alternation; go on where an earlier run was cut."""
    from yrpd.bench.runs import commands

    return commands.bench(project, reporter, profile, model, fresh, only, dry_run)


@command(
    run="Folder of a run; the newest when empty.",
    out="Folder for the report.",
    against="A stored report (latest.json); figures that became worse are exit code 9.",
)
def report(
    project: Project,
    reporter: Reporter,
    run: str = "",
    out: str = "docs/bench",
    against: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Compute tables and figure anew from a run's raw results."""
    from yrpd.bench.reporting import commands

    return commands.report(project, reporter, run, out, against, dry_run)


@command(
    shape="grouped (the figure's), tutorial, document, multi-turn, repeated, unique or images.",
    length="Tokens of the longest prompt.",
    groups="Groups, documents, conversations, images or different prompts; 0: the shape's own number.",
    per_group="Prompts of each; 0: the shape's own number.",
    share="Share of a prompt that its group has in common; 0: the shape's own.",
    seed="Decides text and order.",
    salt="Sets the same dataset apart from itself: nothing of another salt is found again.",
    output="Tokens to generate for each prompt.",
    vllm_seed="The --seed that vllm bench serve will be given.",
    model="Model folder, for its tokenizer and sizes; build/models/qwen2 when empty.",
    out="Folder for the files; below build/bench/datasets when empty.",
    device_tokens="Device cache, in tokens, that the expected hit rate is for.",
    block_size="Tokens of a KV block.",
    export="Also for these, with commas: aiperf, guidellm.",
)
def dataset(
    project: Project,
    reporter: Reporter,
    shape: str = "grouped",
    length: int = 1024,
    groups: int = 0,
    per_group: int = 0,
    share: float = 0.0,
    seed: int = 0,
    salt: str = "",
    output: int = 2,
    vllm_seed: int = 0,
    model: str = "",
    out: str = "",
    device_tokens: int = 265_000,
    block_size: int = 128,
    export: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make prompts whose reuse is known, token by token, with their manifest."""
    from yrpd.bench.dataset import commands

    wanted = commands.Wanted(shape, length, groups, per_group, share, seed, salt, output, vllm_seed)
    return commands.dataset(project, reporter, wanted, model, out, device_tokens, block_size, export, dry_run)
