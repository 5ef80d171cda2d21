"""Stands in for CANN's runtime; sleep mode, which would call it, needs the compiled kernels."""

from typing import Any


def memcpy(*_: Any) -> Any:
    """Refuse: nothing here copies through CANN."""
    raise NotImplementedError("acl.rt.memcpy is not emulated")
