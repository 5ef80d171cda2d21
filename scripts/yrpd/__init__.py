"""Patch, build, image and deploy vllm-ascend with the openYuanrong DataSystem KV connector."""
