"""Stands in for torch_npu.op_plugin."""
