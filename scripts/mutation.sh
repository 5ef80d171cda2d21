#!/usr/bin/env bash
# Mutation run over the connector's keys, layout, lookups and scheduler with their unit tests: `bash scripts/mutation.sh`.
# Takes some minutes and prints every survivor; docs/mutation.md explains them. mutmut has a lock of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

home=build/mutation
rm -rf "$home/run"
mkdir -p "$home/run/src" "$home/run/tests/unit/connector"
install_lock "$home/venv" scripts/mutation.lock

# On a copy, in which the package lies right under a folder `src`, as mutmut expects.
cp -r connector_src/yuanrong "$home/run/src/"
cp tests/unit/connector/{fakes,model_files,test_keys,test_layout,test_lookups,test_scheduler}.py "$home/run/tests/unit/connector/"
cat >"$home/run/pyproject.toml" <<'TOML'
[tool.pytest.ini_options]
pythonpath = ["src", "."]
addopts = ["--import-mode=importlib", "-p", "no:cacheprovider"]
[tool.mutmut]
source_paths = ["src/yuanrong"]
only_mutate = ["src/yuanrong/keys.py", "src/yuanrong/layout.py", "src/yuanrong/lookups.py", "src/yuanrong/scheduler.py"]
pytest_add_cli_args_test_selection = ["tests/unit/connector"]
also_copy = ["src", "tests"]
TOML

cd "$home/run"
nice -n 15 ../venv/bin/mutmut run --max-children 2 "$@" >../run.log 2>&1 || { tail -c 2000 ../run.log >&2; exit 1; }
nice -n 15 ../venv/bin/mutmut export-cicd-stats >/dev/null
tr -d '\n ' <mutants/mutmut-cicd-stats.json && echo
../venv/bin/mutmut results | sed -n 's/: survived$//p' | while read -r name; do
    printf '%s\n' "$name"
    ../venv/bin/mutmut show "$name" | grep -E '^[-+] ' || true
done
