"""Reads an inventory file; every error names file, line and field."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from yrpd.deploying.inventory.inventory import Inventory
from yrpd.errors import ConfigurationError
from yrpd.toml_lines import line_of


def load_inventory(path: Path) -> Inventory:
    """Read and validate an inventory file.

    Raises:
        ConfigurationError: The file is missing, is not TOML, or fields are wrong; file, line and field of the first
            are named in the message, those of all others in the detail.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Inventory.model_validate(tomllib.loads(text))
    except FileNotFoundError as error:
        message = f"The inventory {path} does not exist."
        raise ConfigurationError(message, next_command="invoke deploy --hosts hosts.toml") from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"The inventory {path} cannot be read: {error}."
        raise ConfigurationError(message, next_command=f"ls -l {path}") from error
    except tomllib.TOMLDecodeError as error:
        message = f"{path.name} is not valid TOML: {error}."
        raise ConfigurationError(message, next_command=f"invoke deploy.plan --hosts {path}") from error
    except ValidationError as error:
        sentences = [_sentence(path.name, text, one) for one in error.errors()]
        raise ConfigurationError(
            sentences[0],
            next_command=f"invoke deploy.plan --hosts {path}",
            detail="\n".join(sentences) if len(sentences) > 1 else "",
        ) from error


def _sentence(file: str, text: str, error: Mapping[str, Any]) -> str:
    loc = error["loc"]
    problem = str(error["msg"]).removeprefix("Value error, ")
    if not loc and ": " in problem and " " not in problem.split(": ", 1)[0]:
        field, problem = problem.split(": ", 1)
        loc = tuple(int(part) if part.isdigit() else part for part in field.split("."))
    if error["type"] == "extra_forbidden":
        problem = "there is no such field"
    elif error["type"] == "missing":
        problem = "is missing"
    elif loc and not isinstance(error.get("input"), dict | list):
        problem += f" (found {error.get('input')!r})" if error["loc"] else ""
    line = line_of(text, loc)
    where = f"{file}, line {line}" if line else file
    field = ".".join(str(part) for part in loc)
    return f"{where}: {field}: {problem}." if field else f"{where}: {problem}."
