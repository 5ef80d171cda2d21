"""Proof that what was deployed answers as plain vLLM does, from KV blocks that travelled between hosts."""
