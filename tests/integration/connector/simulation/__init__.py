"""Engines, a DataSystem and time itself, simulated around the real schedulers and the real connector.

``clock`` owns time and threads, ``world`` is the DataSystem, ``device`` the memory with its kernels, ``oracle`` knows
what every block must hold, ``budgets`` counts what a step waited for, ``machine`` is an engine, ``scenario`` what
happens to it, and ``faults`` are mistakes that it has to find.
"""
