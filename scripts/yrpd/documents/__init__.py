"""The documents that join the stages: series and lock, the patched tree, image records, release folders."""
