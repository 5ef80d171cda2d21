#!/usr/bin/env python3
"""Benchmark of images and releases: ``.venv/bin/python scripts/bench_image.py``; docs/bench/image.md."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from workshop.bench.image import main

if __name__ == "__main__":
    main()
