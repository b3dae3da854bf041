#!/usr/bin/env bash
# The tests of slurm/ start a Slurm of their own; without one they are skipped, but not in continuous
# integration. One attempt: where it fails, the tests say so.
set -euo pipefail

PATH="$PATH:/usr/sbin"
if command -v slurmctld >/dev/null && command -v munged >/dev/null; then exit 0; fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qy --no-install-recommends slurm-wlm munge; }; then
    echo ".ci/install_slurm.sh: apt-get cannot install slurm-wlm and munge; the slurm tests will fail" >&2
fi
