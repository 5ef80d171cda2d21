#!/usr/bin/env bash
# From a fresh Debian machine to a verified prefill/decode deployment on two Docker hosts, without an NPU.
# Running it again is quick: every step says what it kept. `invoke deploy.clean lab.down` removes what it started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

# Before anything is installed: a machine that cannot finish is told so now.
[ "${YRPD_CHECK_MACHINE:-}" = no ] || bash scripts/check_machine.sh

export YRPD_FLAVOUR=cpu
install_debian_packages "${DEBIAN_PACKAGES[@]}"
make_venv
# The command `yrpd`, as a link to this checkout: built by the locked backend, nothing is downloaded.
[ -x .venv/bin/yrpd ] || .venv/bin/uv pip install --quiet --offline --no-deps --no-build-isolation --editable .

# A failing task ends this with its own exit code and names the next command.
.venv/bin/invoke patch build
build_engine
.venv/bin/invoke image lab.up deploy deploy.verify

cat >&2 <<'TEXT'

Try it:   the curl line above
Look:     .venv/bin/invoke deploy.status --flavour cpu
Stop:     YRPD_FLAVOUR=cpu .venv/bin/invoke deploy.clean lab.down
TEXT
