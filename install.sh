#!/usr/bin/env bash
# Install the environment, once: `bash install.sh`. A script that sources this file enters it.
# Uses the active virtual or conda environment; without one, makes .venv beside this file.
#   PYTHON=/path/to/python3.12 bash install.sh     the interpreter of a new .venv
set -euo pipefail

install_repo="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

install_fail() {
    echo "install.sh: $*" >&2
    exit 2
}

# Succeeds if $1 runs and is a supported Python; prints nothing.
install_is_supported() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

install_make_venv() {
    local candidate python=""
    for candidate in "${PYTHON:-}" python3 python3.{14,13,12,11,10} python; do
        if [ -n "$candidate" ] && install_is_supported "$candidate"; then
            python="$candidate"
            break
        elif [ -n "${PYTHON:-}" ]; then
            break
        fi
    done
    [ -n "$python" ] ||
        install_fail "needs Python >= 3.10, found none${PYTHON:+ in PYTHON=$PYTHON}; install one or set PYTHON to it"
    "$python" -c "import ensurepip, venv" >/dev/null 2>&1 ||
        install_fail "$python lacks the venv module; install it (Debian, Ubuntu: apt install python3-venv)"
    echo "install.sh: making $1 with $("$python" --version)"
    "$python" -m venv --clear "$1"
}

install_enter() {
    local prefix="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
    if [ -z "$prefix" ]; then
        prefix="$install_repo/.venv"
        [ -x "$prefix/bin/python" ] || install_make_venv "$prefix"
        export VIRTUAL_ENV="$prefix"
    fi
    install_is_supported "$prefix/bin/python" ||
        install_fail "needs Python >= 3.10 in $prefix; remove or deactivate that environment"
    case ":$PATH:" in
        ":$prefix/bin:"*) ;;
        *) export PATH="$prefix/bin:$PATH" ;;
    esac
    install_prefix="$prefix"
}

install_packages() {
    local constraints="$install_prefix/.classic-rlhf-constraints.txt" torch
    local advice="pip failed (its message is above); the first installation needs a package index"
    python -m pip --version >/dev/null 2>&1 || python -m ensurepip >/dev/null 2>&1 ||
        install_fail "$install_prefix has no pip; install pip there"

    # First, so that no dependency chooses its build. An installed torch is never replaced.
    local ask='from importlib.metadata import version; print(version("torch"))'
    if ! torch="$(python -c "$ask" 2>/dev/null)"; then
        python -m pip install "$(grep '^torch==' "$install_repo/constraints.txt")" || install_fail "$advice"
        torch="$(python -c "$ask")"
    fi
    sed "s/^torch==.*/torch==$torch/" "$install_repo/constraints.txt" >"$constraints"
    (cd "$install_repo" && python -m pip install -e '.[dev]' -c "$constraints") || install_fail "$advice"
}

# The stamp names all that the installation depends on; pip only runs if that has changed.
install_once() {
    local stamp="$install_prefix/.classic-rlhf-installed" key
    key="$install_repo $(python --version) $(cat "$install_repo/setup.py" "$install_repo/constraints.txt" | cksum)"
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$key" ]; then
        install_packages
        echo "$key" >"$stamp"
    fi
}

install_enter
install_once
