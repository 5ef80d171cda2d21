"""Stands in for torch_npu._C."""
