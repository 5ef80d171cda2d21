"""What a workload can find again: its ceiling, and what a device cache of a given size finds, block by block. Pure.

The device cache behaves as vLLM 0.10.0's does (``vllm/v1/core/block_pool.py``): blocks leave in the order in which they
became free, a finished request frees its last block first, and at least one token of a prompt is always computed.
Requests come one after the other here; at a higher concurrency the order of frees differs a little.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from workshop.bench.dataset.shapes import Request, Shape
from yrpd.errors import ConfigurationError

Block = tuple[str, int]


@dataclass(frozen=True)
class Expectation:
    """What to expect of a workload, in tokens of all prompts.

    Attributes:
        tokens: Tokens of all prompts.
        ceiling: Tokens that some earlier prompt had, at any place that whole blocks reach.
        device: Tokens that the device cache finds.
        store: Tokens beyond those that a DataSystem finds that never evicts.
        blocks: Different full blocks: what such a DataSystem holds in the end.
    """

    tokens: int
    ceiling: int
    device: int
    store: int
    blocks: int

    @property
    def ceiling_rate(self) -> float:
        """Highest possible hit rate, of 1."""
        return self.ceiling / self.tokens

    @property
    def device_rate(self) -> float:
        """Hit rate of the device cache alone, of 1."""
        return self.device / self.tokens

    @property
    def total_rate(self) -> float:
        """Hit rate of the device cache with a DataSystem behind it, of 1."""
        return (self.device + self.store) / self.tokens


def blocks_of(request: Request, block_size: int) -> Iterator[Block]:
    """Yield the prompt's full blocks, each an identity that is equal exactly for equal content.

    A block is named by the segment that its last token lies in, and its place; that segment's name implies all before.
    """
    end, number = 0, 0
    for segment in request.segments:
        end += segment.tokens
        while (number + 1) * block_size <= end:
            yield segment.name, number
            number += 1


class DeviceCache:
    """vLLM's block pool under requests that come one after the other.

    Args:
        blocks: Usable blocks: vLLM's own count less its null block.
        block_size: Tokens of one.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._free: OrderedDict[int, Block | None] = OrderedDict((place, None) for place in range(blocks))
        self._where: dict[Block, int] = {}

    def serve(self, request: Request, output: int) -> int:
        """Serve one request and return how many of its blocks were found here.

        Args:
            request: The prompt.
            output: Tokens of its answer; the last one is never fed back, so it takes no room.

        Raises:
            ConfigurationError: The request does not fit into the cache at all.
        """
        keys = list(blocks_of(request, self.block_size))
        needed = -(-(request.tokens + max(output - 1, 0)) // self.block_size)
        if needed > len(self._free):
            raise ConfigurationError(
                f"A request of {request.tokens} tokens needs {needed} blocks of {self.block_size}, and the device cache"
                f" has {len(self._free)}."
            )
        held: list[tuple[int, Block | None]] = []
        for key in keys[: loadable(request, self.block_size)]:
            if key not in self._where:
                break
            del self._free[self._where[key]]
            held.append((self._where[key], key))
        found = len(held)
        for number in range(found, needed):
            place, old = self._free.popitem(last=False)
            if old is not None and self._where.get(old) == place:
                del self._where[old]
            key_now = keys[number] if number < len(keys) else None  # blocks with answer in them never recur here
            if key_now is not None:
                self._where[key_now] = place
            held.append((place, key_now))
        for place, kept in reversed(held):
            self._free[place] = kept
        return found


def loadable(request: Request, block_size: int) -> int:
    """Return how many blocks of a prompt may be found: at least one token is always computed."""
    return (request.tokens - 1) // block_size


def expect(shape: Shape, device_blocks: int, block_size: int, output: int) -> Expectation:
    """Send a workload through the device cache and a DataSystem that never evicts.

    Only what can recur is remembered, so a workload of any length needs memory for its shared parts alone.

    Raises:
        ConfigurationError: A request does not fit into the device cache.
    """
    cache = DeviceCache(device_blocks, block_size)
    seen: set[str] = set()  # a segment's blocks all become known at once
    tokens = ceiling = device = store = different = 0
    for index in range(shape.count):
        request = shape.request(index)
        blocks = list(blocks_of(request, block_size))
        usable = loadable(request, block_size)
        known = next((n for n, (segment, _) in enumerate(blocks) if segment not in seen), len(blocks))
        different += len(blocks) - known
        found = cache.serve(request, output)
        tokens += request.tokens
        ceiling += min(known, usable) * block_size
        device += found * block_size
        store += max(0, min(known, usable) - found) * block_size
        seen.update(segment.name for segment in request.segments if segment.shared)
    return Expectation(tokens, ceiling, device, store, different)
