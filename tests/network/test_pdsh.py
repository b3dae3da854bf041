"""run.sh with HOSTFILE alone: one call starts all hosts, by pdsh and what it takes for ssh.

That is a script which enters a host's namespace with an environment as empty as ssh leaves it.
"""

import json
import os
import shutil

import pytest

from tests.network.namespaces import ADDRESSES
from tests.stages.processes import MARK, ROOT, skip_unless_required, started
from training.launching.processes import find_free_port

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.full]

SSH = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do
    [ "$1" = -o ] && shift
    shift
done
case $1 in
    {addresses[0]}) host={hosts[0]} ;;
    {addresses[1]}) host={hosts[1]} ;;
esac
shift
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root {mark}="${mark}" \\
    ip netns exec "$host" sh -c "$*"
"""


def test_one_call_starts_every_host_and_waits_for_all(pairs, material, user_env, tmp_path):
    if shutil.which("pdsh") is None:
        skip_unless_required("network", "no pdsh (Debian's pdsh)")
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH.format(addresses=ADDRESSES, hosts=pairs[0].hosts, mark=MARK))
    ssh.chmod(0o755)
    hostfile = tmp_path / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
    names = {"HOSTFILE": hostfile, "MASTER_PORT": find_free_port(), "OUTPUT_DIR": tmp_path / "out"}
    env = user_env | {name: str(value) for name, value in names.items()}
    env |= {"PATH": f"{ssh.parent}{os.pathsep}{user_env['PATH']}"}
    flags = ["--model_name_or_path", material.base, "--data_path", material.file("sft")]
    flags += ["--max_steps", "2", "--batch_size", "8", "--prompt_template", "about {prompt}"]
    command = [*pairs[0].inside(0), "bash", ROOT / "step1_sft" / "run.sh", *flags]
    with started(command, tmp_path, env) as program:
        assert program.wait() == 0, program.errors.read_text()
        assert program.all_gone_within(30)
        output = program.output.read_text()
    assert "step 2/2" in output
    args = json.loads((tmp_path / "out" / "args.json").read_text())
    assert args["prompt_template"] == "about {prompt}"
    assert all(f"{address}: " in output + program.errors.read_text() for address in ADDRESSES)
