"""Stands in for torchair.scope."""

from torch_npu._refusal import refuse

npu_stream_switch = refuse("torchair.scope.npu_stream_switch")
npu_wait_tensor = refuse("torchair.scope.npu_wait_tensor")
