"""Turns requests into text: every segment's words come from the seed, the salt and the segment's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workshop.bench.dataset.shapes import Request, Shape
from workshop.bench.dataset.words import Words

BATCH = 64


@dataclass(frozen=True)
class Prompt:
    """One line of a dataset.

    Attributes:
        index: Its place in the order of sending.
        text: The prompt.
        turns: The text that each segment adds.
        tokens: Its length with special tokens and image tokens.
        request: What it was made of.
    """

    index: int
    text: str
    turns: tuple[str, ...]
    tokens: int
    request: Request


@dataclass(frozen=True)
class Writer:
    """Writes prompts of one seed and salt.

    Attributes:
        words: The tokenizer's words.
        seed: Two seeds share no text.
        salt: Two salts share no text either; one for every arm and repetition of a benchmark.
    """

    words: Words
    seed: int
    salt: str

    def prompts(self, shape: Shape, order: Sequence[int]) -> Iterator[Prompt]:
        """Yield the prompts of these numbers, each encoded again and compared; a batch is held at a time.

        Raises:
            VerificationError: A prompt is not what it was made of.
        """
        for start in range(0, len(order), BATCH):
            made = [self._make(shape.request(index), index) for index in order[start : start + BATCH]]
            self.words.verify([prompt.text for prompt, _ in made], [numbers for _, numbers in made])
            yield from (prompt for prompt, _ in made)

    def _make(self, request: Request, index: int) -> tuple[Prompt, list[int]]:
        numbers: list[int] = []
        turns: list[str] = []
        spoken = [segment for segment in request.segments if not segment.image]
        for place, segment in enumerate(spoken):
            drawn = self.words.draw(f"{self.seed}/{self.salt}/{segment.name}", segment.tokens)
            # The tokenizer's special tokens count: they take room in the first and in the last segment.
            special = len(self.words.before) * (place == 0) + len(self.words.after) * (place == len(spoken) - 1)
            drawn = drawn[: segment.tokens - special]
            turns.append(self.words.continuation(drawn) if numbers else self.words.text(drawn))
            numbers.extend(drawn)
        shown = request.tokens - sum(segment.tokens for segment in spoken)
        text = "".join(turns)
        return Prompt(index, text, tuple(turns), len(numbers) + self.words.overhead + shown, request), numbers
