"""Undoes the shuffle of vLLM 0.10.0's custom dataset, so that requests are sent in the order of the workload.

``vllm/benchmarks/datasets.py`` seeds Python's generator with ``--seed`` and shuffles the lines of the file. The file is
therefore written in the order that this shuffle turns into the intended one.
"""

from __future__ import annotations

import random
from array import array


def line_order(count: int, seed: int) -> array[int]:
    """Return, for each line of the file, the number of the request that belongs there.

    Args:
        count: Lines.
        seed: vLLM's ``--seed``.
    """
    sent = array("I", range(count))
    random.Random(seed).shuffle(sent)  # noqa: S311 - has to be the generator that vLLM uses
    lines = array("I", bytes(4 * count))
    for place, line in enumerate(sent):
        lines[line] = place
    return lines
