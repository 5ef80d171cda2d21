"""Kinds of fields that several tables of an inventory share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    if ":" in path or "," in path or ".." in path.split("/"):
        raise ValueError("must not contain ':', ',' or '..'")
    return path


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Table(BaseModel):
    """A table of the file: frozen, and every field that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
