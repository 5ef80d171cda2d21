"""Stands in for CANN's ``acl``, of which vllm-ascend only imports one name."""
