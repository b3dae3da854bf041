#!/usr/bin/env bash
# Run the GPU tests and every benchmark, in at most nine minutes.
#   OUT=folder bash benchmarks/gpu.sh     results as JSON in the folder, default benchmarks/results
# Needs the package's environment; without TRL our side alone is timed.
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="${OUT:-$repo/benchmarks/results}"
cd "$repo"
mkdir -p "$out"
deadline=$((SECONDS + 520))
failed=0

run() { # name, most seconds, module, flags...
    local name="$1" limit="$2" left=$((deadline - SECONDS))
    shift 2
    [ "$left" -gt 20 ] || { echo "gpu.sh: no time left for $name"; failed=1; return; }
    [ "$limit" -lt "$left" ] || limit="$left"
    echo "== $name"
    timeout "$limit" python -m "$@" --json "$out/$name.json" || { echo "gpu.sh: $name failed"; failed=1; }
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || exit 2
timeout 120 python -m pytest -q -m gpu tests || failed=1
run rollout_small_512 90 benchmarks.rollout --size small --batch 512 --prompt 128 --answer 128 --peer transformers --peer_dtype bf16
run rollout_medium_128 60 benchmarks.rollout --size medium --batch 128 --prompt 128 --answer 128
run rollout_geometric 60 benchmarks.rollout --size small --batch 128 --answer 128 --lengths geometric --peer ours
run ppo_small_512 90 benchmarks.ppo --size small --batch 512 --prompt 128 --answer 128 --micro_batch_tokens 32768
peer=trl
python -c "import trl.experimental.ppo" 2>/dev/null ||
    { peer=none; echo "gpu.sh: no trl with PPO here; our side alone is timed"; }
run ppo_small_64 90 benchmarks.ppo --size small --batch 64 --prompt 64 --answer 64 --micro_batch_tokens 32768 --peer "$peer"
run reward_small 60 benchmarks.reward --size small --batch 64 --micro_batch_tokens 32768 --peer "$peer"
run sft_small 60 benchmarks.sft --size small --batch 64 --micro_batch_tokens 32768 --peer "$peer"
exit "$failed"
