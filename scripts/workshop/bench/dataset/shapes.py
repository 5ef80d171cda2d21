"""Which requests share which tokens, as data. Pure, and random access: no shape holds its requests in memory.

A request is a list of segments. Two requests share a segment exactly when its name is the same and all segments before
it are shared too; a name therefore always has the same predecessors.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from dataclasses import dataclass, field
from typing import Protocol

TUTORIAL_GROUPS, TUTORIAL_PER_GROUP, TUTORIAL_SHARE = 30, 100, 0.25
FIGURE_GROUPS, FIGURE_PER_GROUP, FIGURE_SHARE = 300, 10, 0.5
DOCUMENT_SHARE = 0.9


@dataclass(frozen=True)
class Segment:
    """A run of tokens.

    Attributes:
        name: Identifies the tokens, within one seed and salt.
        tokens: How many.
        shared: Whether more than one request has it.
        image: The image that these tokens stand for; empty for text.
    """

    name: str
    tokens: int
    shared: bool = False
    image: str = ""


@dataclass(frozen=True)
class Request:
    """One prompt.

    Attributes:
        segments: Its parts, in order.
        session: The conversation it belongs to; requests of one session are sent in order.
    """

    segments: tuple[Segment, ...]
    session: str

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return sum(segment.tokens for segment in self.segments)


class Shape(Protocol):
    """A workload: how many requests, and the n-th of them in the order of sending."""

    @property
    def name(self) -> str:
        """Its name on the command line."""

    @property
    def count(self) -> int:
        """Requests in all."""

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""

    def request(self, index: int) -> Request:
        """Return the request that is sent as number ``index``, from 0."""


def shuffled(count: int, seed: str) -> array[int]:
    """Return the numbers below ``count`` in an order that the seed alone decides; four bytes a number."""
    order = array("I", range(count))
    digest = hashlib.sha256(f"order/{seed}".encode()).digest()
    random.Random(int.from_bytes(digest, "big")).shuffle(order)  # noqa: S311 - an order, not a secret
    return order


@dataclass(frozen=True)
class Grouped:
    """Groups of prompts with a common prefix, all in random order: the tutorial's workload.

    Attributes:
        groups: Groups.
        per_group: Prompts of each.
        prefix: Tokens that a group shares.
        suffix: Tokens of each prompt's own.
        seed: Decides the order.
        name: On the command line: ``grouped`` or ``tutorial``.
    """

    groups: int
    per_group: int
    prefix: int
    suffix: int
    seed: str
    name: str = "grouped"
    _order: array[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Draw the order."""
        object.__setattr__(self, "_order", shuffled(self.count, self.seed))

    @property
    def count(self) -> int:
        """Requests in all."""
        return self.groups * self.per_group

    @property
    def longest(self) -> int:
        """Tokens of every prompt."""
        return self.prefix + self.suffix

    def request(self, index: int) -> Request:
        """Return the request that is sent as number ``index``."""
        group, member = divmod(self._order[index], self.per_group)
        prefix = Segment(f"g{group}", self.prefix, shared=self.per_group > 1)
        return Request((prefix, Segment(f"g{group}.{member}", self.suffix)), f"g{group}.{member}")


@dataclass(frozen=True)
class Document:
    """Questions on shared documents, the documents in turn, so that a small device cache never holds the next one.

    Attributes:
        documents: Documents.
        questions: Questions on each; the first one of each finds nothing.
        document: Tokens of a document.
        question: Tokens of a question.
        name: On the command line.
    """

    documents: int
    questions: int
    document: int
    question: int
    name: str = "document"

    @property
    def count(self) -> int:
        """Requests in all."""
        return self.documents * self.questions

    @property
    def longest(self) -> int:
        """Tokens of every prompt."""
        return self.document + self.question

    def request(self, index: int) -> Request:
        """Return the request that is sent as number ``index``."""
        question, document = divmod(index, self.documents)
        shared = Segment(f"d{document}", self.document, shared=self.questions > 1)
        return Request((shared, Segment(f"d{document}.{question}", self.question)), f"d{document}.{question}")


@dataclass(frozen=True)
class MultiTurn:
    """Conversations, all at their first turn, then all at their second, and so on.

    Attributes:
        conversations: Conversations.
        turns: Turns of each.
        first: Tokens of the first turn.
        turn: Tokens that each later one adds: the last answer and a new question.
        name: On the command line.
    """

    conversations: int
    turns: int
    first: int
    turn: int
    name: str = "multi-turn"

    @property
    def count(self) -> int:
        """Requests in all."""
        return self.conversations * self.turns

    @property
    def longest(self) -> int:
        """Tokens of the last turn's prompt."""
        return self.first + (self.turns - 1) * self.turn

    def request(self, index: int) -> Request:
        """Return the request that is sent as number ``index``."""
        turn, conversation = divmod(index, self.conversations)
        segments = tuple(
            Segment(f"c{conversation}.{n}", self.turn if n else self.first, shared=n < self.turns - 1)
            for n in range(turn + 1)
        )
        return Request(segments, f"c{conversation}")


@dataclass(frozen=True)
class Repeated:
    """The same prompts again and again; with one pass, prompts that share nothing.

    Attributes:
        prompts: Different prompts.
        passes: How often the whole row is sent.
        length: Tokens of each.
        name: On the command line: ``repeated`` or ``unique``.
    """

    prompts: int
    passes: int
    length: int
    name: str = "repeated"

    @property
    def count(self) -> int:
        """Requests in all."""
        return self.prompts * self.passes

    @property
    def longest(self) -> int:
        """Tokens of every prompt."""
        return self.length

    def request(self, index: int) -> Request:
        """Return the request that is sent as number ``index``."""
        prompt = index % self.prompts
        return Request((Segment(f"u{prompt}", self.length, shared=self.passes > 1),), f"u{prompt}.{index}")


@dataclass(frozen=True)
class Images:
    """Questions on images that come back; the image comes first, the question after it.

    Attributes:
        images: Different images.
        questions: Questions on each.
        image_tokens: Tokens that the model puts in place of one.
        question: Tokens of a question.
        name: On the command line.
    """

    images: int
    questions: int
    image_tokens: int
    question: int
    name: str = "images"

    @property
    def count(self) -> int:
        """Requests in all."""
        return self.images * self.questions

    @property
    def longest(self) -> int:
        """Tokens of every prompt."""
        return self.image_tokens + self.question

    def request(self, index: int) -> Request:
        """Return the request that is sent as number ``index``."""
        question, image = divmod(index, self.images)
        shown = Segment(f"i{image}", self.image_tokens, self.questions > 1, f"image-{image}.png")
        return Request((shown, Segment(f"i{image}.{question}", self.question)), f"i{image}.{question}")


@dataclass(frozen=True)
class Opened:
    """Another shape behind one short request that shares nothing: vLLM's benchmark sends the first request twice.

    Attributes:
        shape: What follows.
        opening: Tokens of the short request.
    """

    shape: Shape
    opening: int

    @property
    def name(self) -> str:
        """The other shape's."""
        return self.shape.name

    @property
    def count(self) -> int:
        """Requests in all."""
        return self.shape.count + 1

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.shape.longest, self.opening)

    def request(self, index: int) -> Request:
        """Return the request that is sent as number ``index``."""
        if index == 0:
            return Request((Segment("opening", self.opening),), "opening")
        return self.shape.request(index - 1)


@dataclass(frozen=True)
class Part:
    """Consecutive requests of another shape.

    Attributes:
        shape: Where they come from.
        start: The first one's number.
        stop: The number behind the last one's.
    """

    shape: Shape
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The whole shape's."""
        return self.shape.name

    @property
    def count(self) -> int:
        """Requests of the part."""
        return self.stop - self.start

    @property
    def longest(self) -> int:
        """Tokens of the whole shape's longest prompt."""
        return self.shape.longest

    def request(self, index: int) -> Request:
        """Return the request that is sent as number ``index`` of the part."""
        return self.shape.request(self.start + index)
