"""Starts engines of the patched vllm-ascend that must not start, one after the other, and says why each did not.

Run as a script with a JSON list of ``{"options", "variables"}`` on standard input: arguments of ``vllm.LLM``, and
environment variables of that start. Answers with a line for each, behind the mark of ``engine.py``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

from engine import MARK  # type: ignore[import-not-found]  # beside this script


def refusal(options: dict[str, Any]) -> str:
    """Try to start an engine; returns the error that ended the start."""
    from vllm import LLM

    try:
        LLM(enforce_eager=True, seed=0, dtype="float32", gpu_memory_utilization=0.5, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it started"


def main() -> None:
    """Answer every start of the list."""
    answers = os.fdopen(os.dup(1), "w")
    for start in json.load(sys.stdin):
        os.environ.update(start["variables"])
        print(MARK + json.dumps(refusal(start["options"])), file=answers, flush=True)
        for name in start["variables"]:
            del os.environ[name]
        gc.collect()


if __name__ == "__main__":
    main()
