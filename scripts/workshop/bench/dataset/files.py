"""Writes a dataset as the load generators read it, a batch of prompts at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from workshop.bench.dataset.order import line_order
from workshop.bench.dataset.shapes import Shape
from workshop.bench.dataset.text import Prompt, Writer
from workshop.bench.dataset.tiles import write_picture
from yrpd.reporting import Advance

#: Which tools a dataset can be written for, and the name of its file.
EXPORTS: Mapping[str, str] = {"vllm": "vllm.jsonl", "aiperf": "aiperf.jsonl", "guidellm": "guidellm.jsonl"}


class HashingWriter:
    """Writes lines and hashes them on the way."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def line(self, document: Mapping[str, Any]) -> None:
        """Write one JSON document, the same bytes for the same content."""
        data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._stream.write(data)
        self._digest.update(data)

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[HashingWriter]:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as stream:
            yield HashingWriter(stream)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_vllm(path: Path, writer: Writer, shape: Shape, seed: int, output: int, advance: Advance) -> str:
    """Write what ``vllm bench serve --dataset-name custom --seed SEED`` of vLLM 0.10.0 sends in the shape's order.

    Returns:
        The file's SHA-256.
    """

    def line(prompt: Prompt) -> dict[str, Any]:
        document = {"prompt": prompt.text, "tokens": prompt.tokens, "output_tokens": output, "index": prompt.index}
        return document | _images(prompt)

    return _write(path, writer.prompts(shape, line_order(shape.count, seed)), line, advance)


def write_guidellm(path: Path, writer: Writer, shape: Shape, output: int, advance: Advance) -> str:
    """Write guidellm's columns: ``prompt``, ``prompt_tokens_count``, ``output_tokens_count``; returns the SHA-256."""

    def line(prompt: Prompt) -> dict[str, Any]:
        document = {"prompt": prompt.text, "prompt_tokens_count": prompt.tokens, "output_tokens_count": output}
        return document | _images(prompt)

    return _write(path, writer.prompts(shape, range(shape.count)), line, advance)


def write_aiperf(path: Path, writer: Writer, shape: Shape, advance: Advance) -> str:
    """Write aiperf's ``single_turn`` lines; conversations become ``multi_turn`` lines, one a session.

    aiperf sends the server's own answers back, so a conversation's later turns carry the new question's text alone.

    Returns:
        The file's SHA-256.
    """
    if shape.name != "multi-turn":
        return _write(
            path,
            writer.prompts(shape, range(shape.count)),
            lambda prompt: {"text": prompt.text, **{k: v for k, v in _images(prompt).items() if k == "image"}},
            advance,
        )
    sessions = shape.count - next(
        n for n in range(shape.count) if len(shape.request(n).segments) == len(shape.request(shape.count - 1).segments)
    )
    last_turns = range(shape.count - sessions, shape.count)
    return _write(
        path,
        writer.prompts(shape, last_turns),
        lambda prompt: {"session_id": prompt.request.session, "turns": [{"text": turn} for turn in prompt.turns]},
        advance,
    )


def write_pictures(folder: Path, shape: Shape, writer: Writer, edge: int) -> dict[str, str]:
    """Write the images of a workload; returns name to SHA-256."""
    names = dict.fromkeys(
        segment.image for n in range(shape.count) for segment in shape.request(n).segments if segment.image
    )
    return {name: write_picture(folder / name, f"{writer.seed}/{writer.salt}/{name}", edge) for name in names}


def _images(prompt: Prompt) -> dict[str, Any]:
    names = [segment.image for segment in prompt.request.segments if segment.image]
    return {"image": names[0]} if names else {}


def _write(path: Path, prompts: Iterator[Prompt], line: Callable[[Prompt], Mapping[str, Any]], advance: Advance) -> str:
    with replacing(path) as out:
        for prompt in prompts:
            out.line(line(prompt))
            advance(1)
        return out.sha256


def exports(names: str) -> Sequence[str]:
    """Return the tools of a list with commas, ``vllm`` always first."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    return list(dict.fromkeys(["vllm", *wanted]))
