#!/usr/bin/env bash
# Stage 1, supervised fine-tuning; on several hosts with HOSTFILE and NODE_RANK (docs/several_gpus.md).
#   NUM_GPUS=2 ZERO_STAGE=3 step1_sft/run.sh --model_name_or_path gpt2 --data_path demos.jsonl
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || PATH="$repo/.venv/bin:$PATH"
command -v deepspeed >/dev/null || {
    echo "step1_sft/run.sh: no deepspeed command; run first: bash $repo/install.sh" >&2
    exit 2
}

exec python -m "${CLASSIC_RLHF_LAUNCHER:-training.launching.launch}" ${NUM_GPUS:+--num_gpus "$NUM_GPUS"} \
    ${MASTER_PORT:+--master_port "$MASTER_PORT"} \
    "$repo/step1_sft/main.py" \
    --output_dir "${OUTPUT_DIR:-$repo/output/step1_sft}" \
    --zero_stage "${ZERO_STAGE:-2}" \
    "$@"
