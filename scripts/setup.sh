# Sourced by quickstart.sh and test.sh: installs what is missing, and says so. Nothing that is there is changed.
# shellcheck shell=bash

# What each Debian package is for:
#   docker.io debootstrap iproute2 util-linux   engines, the image's base, the two-host lab
#   g++                                         the emulated NPU of the tests
#   gcc libc6-dev                               repair of the vLLM CPU wheel (facts in docs/image.md)
#   libgomp1 libnuma1                           libraries that vLLM's CPU kernels load
#   etcd-server                                 the DataSystem tests that run outside containers
# shellcheck disable=SC2034
DEBIAN_PACKAGES=(ca-certificates git docker.io debootstrap iproute2 util-linux g++ gcc libc6-dev libgomp1 libnuma1 etcd-server)

say() { printf '%s\n' "$*" >&2; }

install_debian_packages() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then
        say "kept: Debian packages ($*)"
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        say "error: Debian packages are missing and only root can install them: ${missing[*]}."
        say "next:  sudo apt-get install ${missing[*]}"
        return 8
    fi
    say "--> installing Debian packages: ${missing[*]}"
    apt-get update -qq
    # The services of these packages are not wanted: the lab and the tests start their own.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The tools' virtual environment.
make_venv() { install_lock .venv requirements.lock; }

# A virtual environment with exactly what a lock names; made anew when the lock changed or an earlier run was cut off.
# Nothing is resolved (--no-deps; pip before 24 resolves a requirement with an extra although its version is locked, and
# fails as soon as there is a newer one) and nothing is built (what builds is not in the lock). So the lock has to be
# complete, which `pip check` proves.
install_lock() { # FOLDER LOCK
    local stamp=$1/requirements.sha256 wanted python checked
    wanted=$(sha256sum "$2" | cut -d' ' -f1)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$1/bin/python" -c '' 2>/dev/null; then
        say "kept: $1"
        return
    fi
    python=$(find_python) || return 8
    say "--> making $1"
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        install_debian_packages python3-venv || return
    fi
    rm -rf "$1"
    "$python" -m venv "$1" || return
    if ! install_with_uv "$1" "$2" && ! "$1/bin/python" -m pip install -qq --disable-pip-version-check \
        --no-deps --only-binary :all: --require-hashes -r "$2"; then
        say "error: pip could not install what $2 names."
        say "next:  $1/bin/python -m pip config list   (which package index is asked)"
        return 8
    fi
    if ! checked=$("$1/bin/python" -m pip check --disable-pip-version-check); then
        say "$checked"
        say "error: $2 is not complete, so it cannot be installed as it is."
        say "next:  the command in the first lines of $2"
        return 2
    fi
    printf '%s\n' "$wanted" >"$stamp"
}

# uv takes a quarter of pip's time. The one of requirements.lock does it, installed by its hash; what pip knows of indexes,
# certificates and proxies is handed over. Where uv cannot do it, pip does.
install_with_uv() { # FOLDER LOCK
    local uv=$1/bin/uv environment
    "$1/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -r <(sed -n '/^uv==/,/[^\\]$/p' requirements.lock) || return
    environment=$("$1/bin/python" scripts/yrpd/wheels/pip_config.py) || return
    local -a variables
    mapfile -t variables <<<"$environment"
    env "${variables[@]}" "$uv" pip install -q --no-config --python "$1/bin/python" --no-deps --no-build --require-hashes \
        -r "$2" || { say "uv could not install $2; pip does it"; return 1; }
}

# The wheels of vLLM's CPU build are for Python 3.11, and so are the locks.
find_python() {
    local candidate
    for candidate in python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "error: Python 3.11 is not installed; the locked wheels are for that version."
    say "next:  apt-get install python3 python3-venv   (Debian 12)"
    return 8
}

# A machine without a Docker engine gets a private one for building; `invoke lab.down` takes it away.
build_engine() {
    if PYTHONPATH=scripts .venv/bin/python -c 'from yrpd.docker.connection import connect; connect()' 2>/dev/null; then
        say "kept: the Docker engine that answers"
    else
        .venv/bin/invoke lab.builder
    fi
}

# Debian 13's Docker engine, for tests with a newer one than this machine's: its programs run on 12. Unpacked, not installed.
fetch_docker_of_13() { # FOLDER: gets the programs in bin/
    local work mirror
    [ -x "$1/bin/containerd-shim-runc-v2" ] && return
    say "--> fetching Debian 13's Docker engine"
    work=$(mktemp -d)
    mkdir -p "$work"/{lists,cache}/partial "$work/cache/archives/partial" "$1/bin"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | sed -n 1p)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
    apt_of_13() {
        apt-get -qq -o APT::Sandbox::User=root -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- \
            -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" "$@"
    }
    (cd "$work" && apt_of_13 update && apt_of_13 download docker.io containerd \
        && for package in *.deb; do dpkg-deb --extract "$package" root; done)
    install -m 755 "$work"/root/usr/sbin/dockerd "$work"/root/usr/bin/containerd{,-shim-runc-v2} "$1/bin"
    rm -rf "$work"
}
