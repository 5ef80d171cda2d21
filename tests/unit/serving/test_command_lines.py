"""Command lines as data."""

from __future__ import annotations

import json

from yrpd.serving import command_lines
from yrpd.serving.worker import parse


def serve(**fields: object) -> command_lines.VllmServe:
    given = {
        "model": "/models/m",
        "served_name": "m",
        "address": "10.0.0.1",
        "port": 8100,
        "dtype": "float32",
        "max_model_len": 4096,
        "block_size": 128,
        "tensor_parallel": 1,
        "cpu": True,
    }
    return command_lines.VllmServe(**{**given, **fields})  # type: ignore[arg-type]


def test_the_workers_line_is_one_that_the_worker_understands() -> None:
    line = command_lines.datasystem_worker("10.0.0.1:31501", "10.0.0.1:22440", 512)
    assert line[:3] == ("python3", "-m", "yrpd.serving.worker")
    options = parse(line[3:])
    assert (options.worker_address, options.etcd_address, options.memory_mb) == (
        "10.0.0.1:31501",
        "10.0.0.1:22440",
        512,
    )


def test_etcd_listens_on_one_address_only() -> None:
    line = command_lines.etcd("e", "10.0.0.1", 1, 2)
    assert [part for part in line if part.startswith("http")] == [
        "http://10.0.0.1:1",
        "http://10.0.0.1:1",
        "http://10.0.0.1:2",
        "http://10.0.0.1:2",
    ]
    assert "e=http://10.0.0.1:2" in line


def test_options_become_switches_values_and_json() -> None:
    options = {"a": True, "b": False, "c": 0.9, "d": {"x": [1]}, "e": "text", "f": ""}
    words = ("--a", "--no-b", "--c", "0.9", "--d", '{"x":[1]}', "--e", "text", "--f", "")
    assert command_lines.option_words(options) == words
    line = command_lines.vllm_serve(serve(options=command_lines.option_words(options)), None)
    assert line[line.index("--c") + 1] == "0.9"
    assert "--no-b" in line


def test_a_list_becomes_several_words_or_what_vllm_takes_in_their_place() -> None:
    adapters = ["a=/p", {"name": "b", "path": "/q"}]
    options = {"lora-modules": adapters, "cuda-graph-sizes": [1, 2], "allowed-origins": ["*"], "middleware": ["m", "n"]}
    assert command_lines.option_words(options) == (
        *("--allowed-origins", '["*"]', "--cuda-graph-sizes", "1", "2"),
        *("--lora-modules", "a=/p", '{"name":"b","path":"/q"}', "--middleware", "m", "--middleware", "n"),
    )


def test_the_connectors_configuration_is_json_without_blanks() -> None:
    transfer = command_lines.KvTransfer("kv_producer", "h:1", "t", "vllm", by_module=True)
    line = command_lines.vllm_serve(serve(), transfer)
    text = line[line.index("--kv-transfer-config") + 1]
    assert " " not in text
    assert json.loads(text) == {
        "kv_connector": "YuanRongConnector",
        "kv_role": "kv_producer",
        "kv_connector_module_path": "vllm_ascend.distributed.yuanrong",
        "kv_connector_extra_config": {"worker_address": "h:1", "tag": "t"},
    }


def test_chunked_prefill_and_prefix_caching_are_on_with_the_connector() -> None:
    transfer = command_lines.KvTransfer("kv_consumer", "h:1", "t", "ascend", by_module=False)
    line = command_lines.vllm_serve(serve(cpu=False), transfer)
    assert {"--enable-prefix-caching", "--enable-chunked-prefill"} <= set(line)
    assert "--enforce-eager" not in line


def test_middleware_counts_a_request_until_both_p_and_d_are_done_with_it() -> None:
    """The last one that vLLM is given is the first that a request meets."""
    lines = {
        role: command_lines.vllm_serve(
            serve(behind_endpoint=True), command_lines.KvTransfer(role, "h:1", "", "vllm", by_module=True)
        )
        for role in ("kv_producer", "kv_consumer")
    }
    found = {
        role: [line[at + 1].rpartition(".")[2] for at, word in enumerate(line) if word == "--middleware"]
        for role, line in lines.items()
    }
    assert found == {"kv_producer": ["RequestIds", "Draining"], "kv_consumer": ["Pairing", "RequestIds", "Draining"]}
    assert "--middleware" not in command_lines.vllm_serve(serve(), None)
