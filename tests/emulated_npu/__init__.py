"""An NPU for machines that have none: what the patched vllm-ascend needs of torch_npu, over host memory.

``device/npu.cpp`` is the device (PyTorch's PrivateUse1), ``site/`` what goes on ``PYTHONPATH``: ``torch_npu`` with its
operators in plain torch, ``acl``, and the openYuanrong HeteroClient for this device's memory. An operator that is not
there raises; none passes by accident. What it cannot show is in docs/connector.md.
"""
