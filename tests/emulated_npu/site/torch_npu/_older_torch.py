"""What vLLM 0.10.0 takes from torch 2.7 and torch 2.6, which its CPU build comes with, has not."""

from __future__ import annotations

from typing import Optional

import torch
from torch._library import infer_schema


def adapt() -> None:
    """Let operators declare parameters as ``list[int]``, as they may as ``List[int]``."""
    known = infer_schema.SUPPORTED_PARAM_TYPES
    for python, schema in ((int, "SymInt[]"), (float, "float[]"), (bool, "bool[]"), (torch.Tensor, "Tensor[]")):
        known.setdefault(list[python], schema)  # type: ignore[valid-type]
        known.setdefault(Optional[list[python]], f"{schema}?")  # type: ignore[valid-type]  # noqa: UP045
