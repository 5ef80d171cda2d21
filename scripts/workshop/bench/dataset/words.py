"""Text of exactly so many tokens: words that each are one token wherever they stand.

A random string has more tokens than its tokenizer needs for one word, and two strings joined may have fewer than the
two apart. So only words of the vocabulary are used that stay one token beside any other word, and every prompt is
encoded again before it is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from yrpd.errors import ConfigurationError, VerificationError

MOST_WORDS = 4096
FEWEST_WORDS = 16
_LONGEST_WORD = 16


@dataclass(frozen=True)
class Words:
    """A tokenizer's usable words.

    Attributes:
        tokenizer: The model's own.
        words: Usable words, a power of two of them, in the order of the vocabulary.
        ids: The token of each.
        lead: What stands before the first word of a prompt: a space, or nothing.
        before: Special tokens that the tokenizer puts in front of a prompt.
        after: Those behind it.
        digest: SHA-256 of the tokenizer's file.
    """

    tokenizer: Tokenizer
    words: tuple[str, ...]
    ids: tuple[int, ...]
    lead: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    digest: str

    @property
    def overhead(self) -> int:
        """Special tokens of every prompt."""
        return len(self.before) + len(self.after)

    def draw(self, label: str, tokens: int) -> list[int]:
        """Return ``tokens`` word numbers that the label alone decides, the same with any version of anything."""
        raw = np.frombuffer(hashlib.shake_256(label.encode()).digest(2 * tokens), dtype="<u2")
        numbers: list[int] = (raw & (len(self.words) - 1)).tolist()
        return numbers

    def text(self, numbers: Sequence[int]) -> str:
        """Return a prompt of these words."""
        return self.lead + " ".join(self.words[number] for number in numbers)

    def continuation(self, numbers: Sequence[int]) -> str:
        """Return text that goes on after other words."""
        return "".join(f" {self.words[number]}" for number in numbers)

    def verify(self, texts: Sequence[str], drawn: Sequence[Sequence[int]]) -> None:
        """Encode prompts again, as the server will, and compare every token.

        Raises:
            VerificationError: A prompt does not have the tokens it was made of.
        """
        for encoding, numbers in zip(self.tokenizer.encode_batch(list(texts)), drawn, strict=True):
            wanted = [*self.before, *(self.ids[number] for number in numbers), *self.after]
            if encoding.ids != wanted:
                raise VerificationError(
                    f"A prompt of {len(wanted)} tokens was encoded to {len(encoding.ids)} other ones: the tokenizer"
                    " joins words in a way that was not foreseen."
                )


def load_words(folder: Path) -> Words:
    """Read a model's tokenizer and find its usable words.

    Args:
        folder: The model's folder with ``tokenizer.json``, or that file.

    Raises:
        ConfigurationError: There is no tokenizer, or it has hardly a word that is one token.
    """
    path = folder / "tokenizer.json" if folder.is_dir() else folder
    try:
        raw = path.read_bytes()
        tokenizer = Tokenizer.from_str(raw.decode("utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise ConfigurationError(
            f"{path} is not a tokenizer: {error}", next_command="invoke bench.dataset --model FOLDER"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    best: tuple[str, dict[str, int]] = ("", {})
    for lead in (" ", ""):
        found = _single_tokens(tokenizer, lead)
        if len(found) > len(best[1]):
            best = (lead, found)
    lead, found = best
    if len(found) < FEWEST_WORDS:
        raise ConfigurationError(f"{path} has {len(found)} words that are one token each; {FEWEST_WORDS} are needed.")
    size = 1 << (min(len(found), MOST_WORDS).bit_length() - 1)
    words = tuple(list(found)[:size])
    bare = tokenizer.encode(lead + words[0], add_special_tokens=False).ids
    whole = tokenizer.encode(lead + words[0]).ids
    place = whole.index(bare[0])
    return Words(
        tokenizer,
        words,
        tuple(found[word] for word in words),
        lead,
        tuple(whole[:place]),
        tuple(whole[place + 1 :]),
        hashlib.sha256(raw).hexdigest(),
    )


def _single_tokens(tokenizer: Tokenizer, lead: str) -> dict[str, int]:
    """Return words that are one and the same token at the start, in the middle and at the end of a prompt."""
    candidates = [
        word
        for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        if (word := text.lstrip("Ġ▁")).isascii() and word.isalpha() and 1 < len(word) <= _LONGEST_WORD
    ]
    candidates = list(dict.fromkeys(candidates))
    found: dict[str, int] = {}
    thrice = [f"{lead}{word} {word} {word}" for word in candidates]
    for word, encoding in zip(candidates, tokenizer.encode_batch(thrice, add_special_tokens=False), strict=True):
        ids = encoding.ids
        if len(ids) == 3 and len(set(ids)) == 1 and ids[0] not in found.values():
            found[word] = ids[0]
    return found
