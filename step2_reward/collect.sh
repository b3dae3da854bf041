#!/usr/bin/env bash
# Make tasks for annotators: two or more responses of the SFT model per prompt.
#   step2_reward/collect.sh --prompts prompts.txt --samples_per_prompt 4 --output tasks.json
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || PATH="$repo/.venv/bin:$PATH"
command -v deepspeed >/dev/null || {
    echo "step2_reward/collect.sh: no environment; run first: bash $repo/install.sh" >&2
    exit 2
}

exec python "$repo/step2_reward/collect.py" --model "${SFT_MODEL:-$repo/output/step1_sft}" \
    --prompts "${PROMPTS:-$repo/examples/questions/prompts.txt}" "$@"
