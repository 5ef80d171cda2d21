"""Stands in for torch_npu.profiler."""

from ._refusal import refuse

profile = refuse("torch_npu.profiler.profile")
_ExperimentalConfig = refuse("torch_npu.profiler._ExperimentalConfig")
tensorboard_trace_handler = refuse("torch_npu.profiler.tensorboard_trace_handler")
