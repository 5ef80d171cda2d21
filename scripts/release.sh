#!/usr/bin/env bash
# Releases this project: `bash scripts/release.sh [--dry-run]`. Checks that the tree is clean and that the newest version of
# CHANGELOG.md is pyproject.toml's, builds sdist and wheel twice from the commit, writes them with SHA256SUMS into
# dist/project/VERSION/ and makes the annotated tag vVERSION. Nothing is pushed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
make_venv
PYTHONPATH=scripts exec .venv/bin/python -m workshop.publishing "$@"
