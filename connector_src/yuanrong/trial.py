# SPDX-License-Identifier: Apache-2.0
"""One block out and back when an engine starts, so that a path that moves nothing is told of before the first request.

Without it an engine whose DataSystem client cannot reach the device answers correctly and shares nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from .keys import block_key
from .transport.affinity import unbind
from .transport.base import ERROR, FULL, TIMEOUT, UNAVAILABLE, Guard, Transport

logger = logging.getLogger("vllm.yuanrong")

#: vLLM's null block, the first that its pool hands out: no request ever owns it. It holds zeros, as all do at first.
_NULL_BLOCK = 0

#: What helps, by transport and cause. The device plugin is linked to one generation of CANN.
_REMEDIES = {
    ("npu", ERROR): "see 'Which DataSystem for which CANN' in docs/connector.md",
    ("npu", TIMEOUT): "look at the NPU with npu-smi info, and at CANN's logs in ~/ascend/log",
    ("npu", FULL): "give the worker a larger pool",
    ("host", TIMEOUT): "look at the load of this host and at the worker's log",
    ("host", FULL): "give the worker a larger pool",
}


def try_out(transport: Transport, kind: str, seconds: float) -> str | None:
    """Send the null block through a transport and back, and say how that went.

    Called before any request, while nothing else moves. A transport that is not connected has said so itself.

    Args:
        transport: What is tried.
        kind: ``host`` or ``npu``, which decides what could help.
        seconds: How long to wait. A call that hangs is left alone: it touches the null block only.

    Returns:
        None if the block came back or nothing was tried, else the cause of the failure.
    """
    outcome: list[str | None] = []

    def run() -> None:
        unbind()  # with what the transport starts for it
        try:
            outcome.append(_there_and_back(transport))
        except Exception:
            logger.exception("the trial of the transport failed")
            outcome.append(ERROR)

    begin = time.monotonic()
    thread = threading.Thread(target=run, name="yuanrong-trial", daemon=True)
    thread.start()
    thread.join(seconds)
    cause = outcome[0] if outcome else TIMEOUT
    if cause is None:
        logger.info("a KV block went to the DataSystem and back in %.0f ms", (time.monotonic() - begin) * 1000)
    elif cause != UNAVAILABLE:
        logger.warning(
            "KV blocks do not travel (%s, transport %s); requests are answered, every prompt is computed. Remedy: %s",
            cause, kind, _REMEDIES.get((kind, cause), "the line above has the DataSystem client's own words"),
        )  # fmt: skip
    return cause


def _there_and_back(transport: Transport) -> str | None:
    fence = transport.fence()
    if fence is None:
        return UNAVAILABLE
    fence()
    keys, blocks = [block_key(os.urandom(16), "trial", os.urandom(32))], [_NULL_BLOCK]
    cause = transport.put(keys, blocks, Guard()).cause or transport.get(keys, blocks, Guard()).cause
    transport.discard(keys)
    return cause
