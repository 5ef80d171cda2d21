"""What the inventory's options become, held against vLLM's own parser."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from vllm.entrypoints.openai.cli_args import make_arg_parser  # noqa: E402
from vllm.utils import FlexibleArgumentParser  # noqa: E402

from yrpd.deploying.inventory.reserved import RESERVED_OPTIONS, check_options  # noqa: E402
from yrpd.serving.command_lines import JSON_LISTS, REPEATED, option_words  # noqa: E402

#: What the connector refuses at its start (``check_engine``), by the option that asks for it.
REFUSED = (
    *("pipeline-parallel-size", "decode-context-parallel-size", "calculate-kv-scales", "async-scheduling"),
    *("speculative-config", "scheduler-cls", "kv-transfer-config"),
)


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser())
    return made


def parsed(parser: argparse.ArgumentParser, options: dict[str, Any]) -> argparse.Namespace:
    return parser.parse_args([*option_words(check_options(options)), "--port", "1"])


def test_every_option_with_several_values_is_taken_as_it_is_written(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        name = next((each[2:] for each in action.option_strings if each.startswith("--")), "")
        if name in RESERVED_OPTIONS or not name:
            continue
        if action.nargs in ("+", "*"):
            assert name not in (*JSON_LISTS, *REPEATED), name
        elif isinstance(action.default, list):
            assert name in (REPEATED if isinstance(action, argparse._AppendAction) else JSON_LISTS), name
            assert getattr(parsed(parser, {name: ["a", "b"]}), action.dest) == ["a", "b"]


def test_adapters_tables_and_numbers_arrive(parser: argparse.ArgumentParser) -> None:
    options = {
        "lora-modules": ["a=/p", {"name": "b", "path": "/q"}],
        "cuda-graph-sizes": [1, 2],
        "limit-mm-per-prompt": {"image": 2},
        "enable-lora": True,
        "enforce_eager": False,
        "gpu-memory-utilization": 0.5,
    }
    found = parsed(parser, options)
    assert [(each.name, each.path) for each in found.lora_modules] == [("a", "/p"), ("b", "/q")]
    assert (found.cuda_graph_sizes, found.limit_mm_per_prompt, found.port) == ([1, 2], {"image": 2}, 1)
    assert (found.enable_lora, found.enforce_eager, found.gpu_memory_utilization) == (True, False, 0.5)
    one = parsed(parser, {"lora-modules": "c=/r", "override-generation-config": json.dumps({"top_k": 1})})
    assert [each.path for each in one.lora_modules] == ["/r"]
    assert one.override_generation_config == {"top_k": 1}


def test_no_spelling_that_the_parser_takes_for_what_the_connector_refuses_passes(
    parser: argparse.ArgumentParser,
) -> None:
    known = {text: action for action in parser._actions for text in action.option_strings}
    spellings = {name[:end] for name in REFUSED for end in range(1, len(name) + 1)}
    spellings |= {f"no-{each}" for each in spellings} | {text.lstrip("-") for text in known}
    refused = {known[f"--{name}"] for name in REFUSED if f"--{name}" in known}
    meant = set()
    for text in spellings:
        given = f"--{text}"
        actions = {known[given]} if given in known else {one[0] for one in parser._get_option_tuples(given)}
        if len(actions) == 1 and actions <= refused:
            meant.add(text)
            for spelled in (text, text.replace("-", "_")):
                with pytest.raises(ValueError, match=r"reserved|not an option name"):
                    check_options({spelled: True})
    assert {"async", "no-async-scheduling", "speculative-config", "pipeline-parallel"} <= meant


def test_no_other_option_is_refused_as_the_beginning_of_a_reserved_one(parser: argparse.ArgumentParser) -> None:
    names = {text[2:] for action in parser._actions for text in action.option_strings if text.startswith("--")}
    for name in names - RESERVED_OPTIONS.keys():
        value: Any = {} if name == "additional-config" else True
        if name.removeprefix("no-") not in RESERVED_OPTIONS:
            check_options({name: value})
