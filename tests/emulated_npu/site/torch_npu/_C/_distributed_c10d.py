"""HCCL's process group as a class, which only data parallelism asks for."""

from .._refusal import refuse

ProcessGroupHCCL = refuse("ProcessGroupHCCL")
