"""HTTP to hosts of the inventory: no proxy and no credentials of the environment come in between."""

from __future__ import annotations

import requests


class DirectSession(requests.Session):
    """A session that takes nothing from the environment."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
