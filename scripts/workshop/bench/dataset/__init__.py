"""Prompts whose reuse is known: shapes, text, the hit rates to expect, the files that load generators read."""
