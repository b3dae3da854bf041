#!/usr/bin/env bash
# Lint, types and tests, in two processes. Arguments go to pytest.
#   bash run_tests.sh                       a test of every property
#   bash run_tests.sh --all                 also each combination of settings, killed runs, Slurm, several
#                                           hosts and Label Studio: what continuous integration runs
#   bash run_tests.sh -k packaging
#   STEPS="lint type" bash run_tests.sh     some of the steps: lint type test
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

report() {
    local status=$?
    echo "run_tests.sh: $([ "$status" = 0 ] && echo passed || echo "failed with status $status") after $SECONDS s"
    exit "$status"
}
trap report EXIT

shell_scripts() {
    find . \( -name .git -o -name .venv -o -name output \) -prune -o \
        -type f \( -name '*.sh' -o -name '*.sbatch' -o -path ./.ci/run \) -print0
}

lint() {
    ruff check .
    ruff format --check .
    shell_scripts | xargs -0 -n 1 bash -n
    if command -v shellcheck >/dev/null; then shell_scripts | xargs -0 shellcheck -x; fi
    python .ci/check_files.py
    python .ci/check_style.py
}

# What the tests of the exchange with Label Studio need, which only --all runs. Without it they are
# skipped, but not in continuous integration, where they fail.
label_studio() {
    python -c 'import label_studio_sdk' 2>/dev/null ||
        python -m pip install --quiet "$(grep '^label-studio-sdk==' constraints.txt)" -c constraints.txt ||
        echo "run_tests.sh: no Label Studio: pip cannot install its client" >&2
}

. ./install.sh

for step in ${STEPS:-lint type test}; do
    echo "== $step"
    case "$step" in
        lint) lint ;;
        type) mypy ;;
        test)
            case " $* " in *" --all "*) label_studio ;; esac
            # A file's tests share their launches, so that they run in one process, in the order of
            # tests/conftest.py: the longest first.
            python -m pytest -n 2 --max-worker-restart 0 --dist loadfile \
                --no-loadscope-reorder "$@"
            ;;
        *) echo "run_tests.sh: STEPS takes lint, type and test, got '$step'" >&2 && exit 2 ;;
    esac
done
