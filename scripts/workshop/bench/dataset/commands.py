"""``invoke bench.dataset``: make one dataset, its exports and its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from workshop.bench.dataset import files
from workshop.bench.dataset.caching import expect
from workshop.bench.dataset.description import manifest, model_sizes
from workshop.bench.dataset.shapes import (
    DOCUMENT_SHARE,
    FIGURE_GROUPS,
    FIGURE_PER_GROUP,
    FIGURE_SHARE,
    TUTORIAL_GROUPS,
    TUTORIAL_PER_GROUP,
    TUTORIAL_SHARE,
    Document,
    Grouped,
    Images,
    MultiTurn,
    Repeated,
    Shape,
)
from workshop.bench.dataset.text import Writer
from workshop.bench.dataset.words import load_words
from yrpd.errors import ConfigurationError
from yrpd.project import Project, write_json
from yrpd.reporting import Reporter

SHAPES = ("grouped", "tutorial", "document", "multi-turn", "repeated", "unique", "images")


@dataclass(frozen=True)
class Wanted:
    """What to generate.

    Attributes:
        shape: One of :data:`SHAPES`.
        length: Tokens of the longest prompt.
        groups: Groups, documents, conversations, images or different prompts; 0 takes the shape's own number.
        per_group: Prompts of each; 0 takes the shape's own number.
        share: Share of a prompt that is common; 0 takes the shape's own.
        seed: Decides text and order.
        salt: Sets it apart from the same dataset with another salt.
        output: Tokens to generate.
        vllm_seed: The ``--seed`` that vLLM will be given.
        image_edge: Pixels of an image's side.
    """

    shape: str = "grouped"
    length: int = 1024
    groups: int = 0
    per_group: int = 0
    share: float = 0.0
    seed: int = 0
    salt: str = ""
    output: int = 2
    vllm_seed: int = 0
    image_edge: int = 448


def make_shape(wanted: Wanted) -> Shape:
    """Return the workload.

    Raises:
        ConfigurationError: An option does not fit the shape.
    """
    if wanted.length < 2 or not 0 <= wanted.share < 1 or min(wanted.groups, wanted.per_group) < 0 or wanted.output < 1:
        raise ConfigurationError(
            "A prompt has at least 2 tokens, an answer 1, and the common share lies between 0 and 1."
        )
    own = {
        "grouped": (FIGURE_GROUPS, FIGURE_PER_GROUP, FIGURE_SHARE),
        "tutorial": (TUTORIAL_GROUPS, TUTORIAL_PER_GROUP, TUTORIAL_SHARE),
        "document": (8, 10, DOCUMENT_SHARE),
        "multi-turn": (50, 6, 0.5),
        "repeated": (100, 2, 1.0),
        "unique": (100, 1, 0.0),
        "images": (20, 5, 0.0),
    }
    if wanted.shape not in own:
        raise ConfigurationError(
            f"There is no shape {wanted.shape!r}; there are: {', '.join(SHAPES)}.",
            next_command="invoke bench.dataset --shape grouped",
        )
    groups, per_group, share = own[wanted.shape]
    groups, per_group, share = wanted.groups or groups, wanted.per_group or per_group, wanted.share or share
    common = max(1, round(wanted.length * share))
    rest = wanted.length - common
    if wanted.shape in ("grouped", "tutorial"):
        return Grouped(groups, per_group, common, rest, f"{wanted.seed}/{wanted.salt}", wanted.shape)
    if wanted.shape == "document":
        return Document(groups, per_group, common, rest)
    if wanted.shape == "multi-turn":
        turn = (wanted.length - common) // max(per_group - 1, 1)
        return MultiTurn(groups, per_group, wanted.length - (per_group - 1) * turn, turn)
    if wanted.shape == "images":
        shown = (wanted.image_edge // 28) ** 2
        if wanted.length <= shown:
            raise ConfigurationError(f"An image of {wanted.image_edge} pixels takes {shown} tokens; --length is less.")
        return Images(groups, per_group, shown, wanted.length - shown)
    return Repeated(groups, 1 if wanted.shape == "unique" else per_group, wanted.length, wanted.shape)


def generate(
    reporter: Reporter,
    wanted: Wanted,
    model: Path,
    folder: Path,
    device_tokens: int,
    block_size: int,
    tools: str = "",
    dtype: str = "",
) -> dict[str, Any]:
    """Write a dataset into a folder and return its manifest.

    Raises:
        ConfigurationError: An option, the model or the tokenizer does not fit.
        VerificationError: The tokenizer does not give the tokens that were meant.
    """
    shape, sizes, words = make_shape(wanted), model_sizes(model, dtype), load_words(model)
    names = files.exports(tools)
    if unknown := [name for name in names if name not in files.EXPORTS]:
        raise ConfigurationError(f"No export is called {unknown[0]!r}; there are: {', '.join(files.EXPORTS)}.")
    expectation = expect(shape, device_tokens // block_size, block_size, wanted.output)
    writer = Writer(words, wanted.seed, wanted.salt)
    written: dict[str, str] = {}
    for name in names:
        path = folder / files.EXPORTS[name]
        with reporter.progress(f"{path.name}", shape.count) as advance:
            if name == "vllm":
                digest = files.write_vllm(path, writer, shape, wanted.vllm_seed, wanted.output, advance)
            elif name == "aiperf":
                digest = files.write_aiperf(path, writer, shape, advance)
            else:
                digest = files.write_guidellm(path, writer, shape, wanted.output, advance)
        written[path.name] = digest
    if wanted.shape == "images":
        written |= files.write_pictures(folder, shape, writer, wanted.image_edge)
    document = manifest(
        shape={"name": shape.name, "length": shape.longest, **_numbers(shape)},
        count=shape.count,
        output=wanted.output,
        seed=wanted.seed,
        salt=wanted.salt,
        vllm_seed=wanted.vllm_seed,
        tokenizer=words.digest,
        files=written,
        expectation=expectation,
        block_size=block_size,
        device_tokens=device_tokens,
        sizes=sizes,
    )
    write_json(folder / "manifest.json", document)
    return document


def dataset(
    project: Project,
    reporter: Reporter,
    model: str,
    out: str,
    device_tokens: int,
    block_size: int,
    export: str,
    dry_run: bool = False,
    **shape: Any,
) -> dict[str, Any]:
    """Make a dataset below ``build/bench/datasets``, or say what it would be.

    Args:
        project: The checkout.
        reporter: Says what is done.
        model: Model folder, for its tokenizer and sizes; the small text model's when empty.
        out: Folder for the files; by the shape's name and length when empty.
        device_tokens: Device cache, in tokens, that the expected hit rate is for.
        block_size: Tokens of a KV block.
        export: Tools that get the dataset in a form of their own, separated by commas.
        dry_run: Only say what would be made.
        shape: The fields of :class:`Wanted`.

    Raises:
        ConfigurationError: An option does not fit the shape, or there is no such tool.
    """
    wanted = Wanted(**shape)
    folder = Path(out) if out else project.build / "bench" / "datasets" / f"{wanted.shape}-{wanted.length}"
    source = Path(model) if model else project.build / "models" / "qwen2"
    if dry_run:
        made = make_shape(wanted)
        plan = {"state": "planned", "folder": str(folder), "requests": made.count, "longest": made.longest}
        reporter.say(f"would write {made.count} prompts of up to {made.longest} tokens to {folder}")
        return plan
    with reporter.step(f"{wanted.shape} dataset in {folder}"):
        document = generate(reporter, wanted, source, folder, device_tokens, block_size, export)
    reporter.render(_table(document))
    served = "" if wanted.shape != "images" else "; its images go through aiperf: the custom dataset has text alone"
    reporter.say(
        f"vllm bench serve --dataset-name custom --dataset-path {folder / 'vllm.jsonl'} --custom-skip-chat-template"
        f" --custom-output-len {wanted.output} --num-prompts {document['requests']} --seed {wanted.vllm_seed}{served}"
    )
    return {**document, "folder": str(folder)}


def _numbers(shape: Shape) -> dict[str, Any]:
    return {key: value for key, value in vars(shape).items() if isinstance(value, int)}


def _table(document: dict[str, Any]) -> Table:
    table = Table("what", "value")
    for name, value in (
        ("prompts", f"{document['requests']:,}"),
        ("prompt tokens", f"{document['prompt_tokens']:,}"),
        ("hit ceiling", f"{document['hit_ceiling']:.2%}"),
        (
            f"expected with a device cache of {document['device_cache_tokens']:,} tokens",
            f"{document['expected_hit_rate']['device']:.2%}",
        ),
        ("expected with a DataSystem behind it", f"{document['expected_hit_rate']['with_datasystem']:.2%}"),
        ("DataSystem bytes that takes", f"{document['datasystem_bytes'] / 2**20:,.0f} MiB"),
    ):
        table.add_row(name, value)
    return table
