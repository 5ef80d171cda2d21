"""How far two right evaluations of one model may lie apart, derived from the dtype.

Two engines evaluate the same function in different orders: whole prompt or chunks, loaded blocks or computed ones, one
request or several in a batch. Each order rounds differently, and that is the only difference a right answer may show.

Model of the error. On its way from the embedding to a logit a value is rounded ``R`` times with unit roundoff ``u``
(half the distance from 1 to the next number of the dtype). Rounding errors are independent and of random sign, so they
add up as a random walk (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 2.8): the relative
error of the result is about ``sqrt(R) * u``, the absolute error of a logit ``sqrt(R) * u * S`` with ``S`` the scale of
the logits. A log-probability is a difference of two such numbers (the logit and the log of the sum), and two engines
are compared, which doubles the variance twice: a factor 2. Twice that again keeps a right answer inside at four sigma.

    tolerance = 4 * sqrt(R) * u * S

``R`` of one layer: 16 element-wise roundings (two norms of 2, query/key/value, rotation, scores, softmax, weighted sum,
output, two residual sums, gate, activation, product, down). Matrix products round inside, too: in float32 the sum of
``K`` products is kept in float32, ``K`` roundings; 16-bit dtypes accumulate in float32, whose roundings vanish beside
the single one of the result. ``K`` is the hidden size for query/key/value, output and gate, the intermediate size for
down, the head's size for scores, and the number of tokens for the weighted sum.

``S`` is the largest magnitude among the reference's compared log-probabilities, at least 1: logits of less likely
tokens lie further away from the sum's logarithm, by exactly their log-probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNIT_ROUNDOFF: Mapping[str, float] = {
    "float32": 2.0**-24,  # 24 bits of significand
    "float16": 2.0**-11,  # 11 bits
    "bfloat16": 2.0**-8,  # 8 bits
}
ELEMENTWISE_ROUNDINGS = 16
FINAL_ROUNDINGS = 4  # norm (2), logits, logarithm of the sum
SIGMAS = 4.0


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that rounding depends on.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the residual stream.
        intermediate: Width inside the feed-forward part.
        head: Width of an attention head.
    """

    layers: int
    hidden: int
    intermediate: int
    head: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Return the sizes out of a model's ``config.json``, flat or with a ``text_config``.

    Raises:
        KeyError: It does not describe a decoder.
    """
    text = config.get("text_config") or config
    hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
    return Shape(
        layers=int(text["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(text["intermediate_size"]),
        head=int(text.get("head_dim") or hidden // heads),
    )


def roundings(shape: Shape, dtype: str, tokens: int) -> int:
    """Return ``R``, the number of roundings between an embedding and a log-probability.

    Args:
        shape: The model's sizes.
        dtype: What it computes in.
        tokens: Longest context that is compared.
    """
    layer, final = ELEMENTWISE_ROUNDINGS, FINAL_ROUNDINGS
    if dtype == "float32":
        layer += 3 * shape.hidden + shape.intermediate + shape.head + tokens
        final += shape.hidden
    return shape.layers * layer + final


def logprob_tolerance(shape: Shape, dtype: str, tokens: int, scale: float) -> float:
    """Return how far two right log-probabilities may lie apart (see the module's text).

    Args:
        shape: The model's sizes.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        tokens: Longest context that is compared.
        scale: Largest magnitude among the reference's log-probabilities.
    """
    return SIGMAS * math.sqrt(roundings(shape, dtype, tokens)) * UNIT_ROUNDOFF[dtype] * max(1.0, scale)


def ties_allowed(dtype: str) -> bool:
    """Return whether greedy answers may part where the reference's two best tokens are closer than the tolerance.

    In float32 the tolerance is so small that such a tie does not happen by chance; in 16 bits it does.
    """
    return dtype != "float32"
