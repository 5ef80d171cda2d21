"""Stands in for torchair: graph mode is not emulated, and asking for it is an error."""

from torch_npu._refusal import refuse

from . import scope

CompilerConfig = refuse("torchair.CompilerConfig")
get_npu_backend = refuse("torchair.get_npu_backend")
patch_for_hcom = refuse("torchair.patch_for_hcom")

__all__ = ["CompilerConfig", "get_npu_backend", "patch_for_hcom", "scope"]
