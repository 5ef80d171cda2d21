"""Wheels: package indexes, locks, the wheelhouse. Knows nothing of this project."""
