#!/usr/bin/env bash
# What tests need of the system: slurm-wlm and munge for those that start a Slurm of their own, ip and
# pdsh for those of several hosts. Where they are there, those tests are not skipped for want of them.
set -euo pipefail

PATH="$PATH:/usr/sbin:/sbin"
packages=()
command -v slurmctld >/dev/null || packages+=(slurm-wlm)
command -v munged >/dev/null || packages+=(munge)
command -v ip >/dev/null || packages+=(iproute2)
command -v pdsh >/dev/null || packages+=(pdsh)
[ ${#packages[@]} -gt 0 ] || exit 0
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qy --no-install-recommends "${packages[@]}"; }; then
    echo ".ci/install_packages.sh: apt-get cannot install ${packages[*]}; what needs them is skipped" >&2
    exit 1
fi
