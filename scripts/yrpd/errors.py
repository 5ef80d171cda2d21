"""Every failure the toolchain reports, each class with its exit code.

An error says what failed and why, and names the next command. A traceback is for ``--verbose`` only.
"""

from __future__ import annotations

from typing import Any, ClassVar


class YrpdError(Exception):
    """Base of all reported errors.

    Args:
        message: What failed and why, one sentence.
        next_command: What to type next; shown on a line of its own.
        detail: More lines for people who want them (a log's tail, a table).
        document: What ``--json`` prints in place of the error's own fields, such as a report that did not pass.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, next_command: str = "", detail: str = "", document: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.next_command = next_command
        self.detail = detail
        self.document = document

    def __str__(self) -> str:
        """Return the sentence, and the next command when there is one."""
        return f"{self.message}\nnext: {self.next_command}" if self.next_command else self.message


class ConfigurationError(YrpdError):
    """A file, option or environment variable of the user's is wrong."""

    exit_code = 2


class PinMismatchError(YrpdError):
    """A hash, commit or tree is not the one that the pin or lock names."""

    exit_code = 3


class PatchConflictError(YrpdError):
    """A patch of the series does not apply."""

    exit_code = 4


class BuildError(YrpdError):
    """The patched tree could not be rebuilt or imported."""

    exit_code = 5


class ImageError(YrpdError):
    """An image could not be built, moved or found."""

    exit_code = 6


class DeployError(YrpdError):
    """A host did not reach the planned state."""

    exit_code = 7


class EnvironmentFailure(YrpdError):
    """This machine, or a host, lacks something: an engine, a port, a program, a folder."""

    exit_code = 8


class VerificationError(YrpdError):
    """What was deployed does not answer as it must."""

    exit_code = 9
