"""What happens to everything that is not emulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


class NotEmulatedError(AttributeError, NotImplementedError):
    """Code under test asked for something of the NPU that this emulation does not have."""


def refuse(name: str) -> Callable[..., NoReturn]:
    """Return a function that exists, as torch_npu has it, and refuses to be called."""

    def refused(*_: Any, **__: Any) -> NoReturn:
        raise NotEmulatedError(f"{name} is not emulated; write it in tests/emulated_npu/site/torch_npu/_operators")

    refused.__name__ = refused.__qualname__ = name.rsplit(".", 1)[-1]
    return refused
