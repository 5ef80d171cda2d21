"""HCCL's place is taken by gloo: tensors go through host memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


class _Done(dist._Work):  # type: ignore[misc]
    """A collective that has ended."""

    def wait(self, timeout: Any = None) -> bool:
        """Return at once."""
        return True

    def is_completed(self) -> bool:
        """Tell that it has ended."""
        return True


class ProcessGroupHccl(dist.ProcessGroup):  # type: ignore[misc]
    """The collectives that vLLM calls, for tensors of the emulated device."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def getBackendName(self) -> str:
        """Return the name under which torch knows this."""
        return "hccl"

    def _get_backend(self, device: torch.device) -> ProcessGroupHccl:
        """Return what does the work for tensors of a device: this."""
        return self

    def get_hccl_comm_name(self, rank: int) -> str:
        """Return the communicator's name, for operators that talk by themselves; none of them is emulated."""
        return "emulated"

    def allreduce(self, tensors: list[torch.Tensor], options: Any = None) -> _Done:
        """Reduce in place."""
        hosts = [tensor.cpu() for tensor in tensors]
        self._gloo.allreduce(hosts, options or dist.AllreduceOptions()).wait()
        return self._back(tensors, hosts)

    def broadcast(self, tensors: list[torch.Tensor], options: Any) -> _Done:
        """Send one rank's tensor to all."""
        hosts = [tensor.cpu() for tensor in tensors]
        self._gloo.broadcast(hosts, options).wait()
        return self._back(tensors, hosts)

    def allgather(self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], options: Any = None) -> _Done:
        """Collect every rank's tensor on every rank."""
        hosts = [[tensor.cpu() for tensor in row] for row in outputs]
        self._gloo.allgather(hosts, [tensor.cpu() for tensor in inputs]).wait()
        for row, host_row in zip(outputs, hosts, strict=True):
            self._back(row, host_row)
        return _Done()

    def _allgather_base(self, output: torch.Tensor, source: torch.Tensor, options: Any = None) -> _Done:
        """Collect every rank's tensor on every rank, one after the other in one tensor."""
        parts = list(output.cpu().chunk(self.size()))
        self._gloo.allgather([parts], [source.cpu()]).wait()
        output.copy_(torch.cat(parts))
        return _Done()

    def gather(self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], options: Any) -> _Done:
        """Collect every rank's tensor on one rank."""
        hosts = [[tensor.cpu() for tensor in row] for row in outputs]
        self._gloo.gather(hosts, [tensor.cpu() for tensor in inputs], options).wait()
        for row, host_row in zip(outputs, hosts, strict=True):
            self._back(row, host_row)
        return _Done()

    def barrier(self, options: Any = None) -> _Done:
        """Wait for all ranks."""
        self._gloo.barrier(dist.BarrierOptions()).wait()
        return _Done()

    @staticmethod
    def _back(tensors: list[torch.Tensor], hosts: list[torch.Tensor]) -> _Done:
        for tensor, host in zip(tensors, hosts, strict=True):
            tensor.copy_(host)
        return _Done()


def register() -> None:
    """Make ``hccl`` a backend of torch.distributed, for the device and for host tensors that go with it."""
    dist.Backend.register_backend("hccl", ProcessGroupHccl, devices=["npu", "cpu"])
    dist.is_hccl_available = lambda: True
