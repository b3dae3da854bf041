#!/usr/bin/env bash
# Stage 3, PPO; on several hosts with HOSTFILE and NODE_RANK (docs/several_gpus.md).
#   NUM_GPUS=2 ZERO_STAGE=3 step3_ppo/run.sh --kl_coef 0.02 --max_steps 100
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || PATH="$repo/.venv/bin:$PATH"
command -v deepspeed >/dev/null || {
    echo "step3_ppo/run.sh: no deepspeed command; run first: bash $repo/install.sh" >&2
    exit 2
}

exec python -m "${CLASSIC_RLHF_LAUNCHER:-training.launching.launch}" ${NUM_GPUS:+--num_gpus "$NUM_GPUS"} \
    ${MASTER_PORT:+--master_port "$MASTER_PORT"} \
    "$repo/step3_ppo/main.py" \
    --actor_model_name_or_path "${ACTOR_MODEL:-$repo/output/step1_sft}" \
    --reward_model_name_or_path "${REWARD_MODEL:-$repo/output/step2_reward}" \
    --output_dir "${OUTPUT_DIR:-$repo/output/step3_ppo}" \
    --zero_stage "${ZERO_STAGE:-2}" \
    "$@"
