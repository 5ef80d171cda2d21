"""Runs of ``vllm bench serve`` against engines in alternation: what is run, on what, and what is kept of it."""
