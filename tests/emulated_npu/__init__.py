"""An NPU for machines that have none: what the patched vllm-ascend needs of torch_npu and CANN, over host memory.

``device/npu.cpp`` is the device (PyTorch's PrivateUse1), ``site/`` what goes on ``PYTHONPATH``: ``torch_npu`` with its
operators in plain torch, and ``acl``. ``cann/`` are the libraries that the DataSystem client's device plugin is linked
to: client, plugin and worker are the real ones. An operator or a call that is not there is an error; none passes by
accident. What is real and where each claim comes from is in docs/testing.md, what it cannot show in docs/connector.md.
"""
