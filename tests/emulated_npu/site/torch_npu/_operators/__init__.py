"""Operators of torch_npu in plain torch, from their documented semantics."""
