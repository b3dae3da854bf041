#!/usr/bin/env bash
# Stage 2, the reward model; on several hosts with HOSTFILE and NODE_RANK (docs/several_gpus.md).
#   step2_reward/run.sh --data_path comparisons.jsonl --head mlp
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || PATH="$repo/.venv/bin:$PATH"
command -v deepspeed >/dev/null || {
    echo "step2_reward/run.sh: no deepspeed command; run first: bash $repo/install.sh" >&2
    exit 2
}

exec python -m "${CLASSIC_RLHF_LAUNCHER:-training.launching.launch}" ${NUM_GPUS:+--num_gpus "$NUM_GPUS"} \
    ${MASTER_PORT:+--master_port "$MASTER_PORT"} \
    "$repo/step2_reward/main.py" \
    --model_name_or_path "${SFT_MODEL:-$repo/output/step1_sft}" \
    --output_dir "${OUTPUT_DIR:-$repo/output/step2_reward}" \
    --zero_stage "${ZERO_STAGE:-2}" \
    "$@"
