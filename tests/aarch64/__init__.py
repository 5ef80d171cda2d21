"""The npu flavour's aarch64 wheels, on a machine that is none: QEMU runs their programs one by one, in user mode.

``debian.py`` unpacks a Debian of that machine, ``packages.py`` the locked wheels, ``guest.py`` runs programs on both.
CANN's stand-ins are those of the emulated NPU, compiled for aarch64. Nothing is registered with the kernel and nothing
needs root. What QEMU cannot show is in docs/testing.md.
"""
