#!/usr/bin/env bash
# Submit the three stages as jobs. Each starts after the previous one has succeeded; if one fails, the
# rest are cancelled.
#   bash slurm/pipeline.sh [sbatch options] [--output_dir FOLDER] [--dry_run] [-- flags]...
#   bash slurm/pipeline.sh --nodes 2 --gpus-per-node 8 --time 8:00:00 --output_dir output/run1 \
#       -- --zero_stage 3 \
#       -- step1_sft --model_name_or_path gpt2 --data_path demos.jsonl \
#       -- step2_reward --data_path comparisons.jsonl \
#       -- step3_ppo --data_path prompts.jsonl --max_steps 200
#
# Options are those of slurm/submit.sh. Flags after a -- apply to all stages, or to the stage named
# there. Stages write to FOLDER/step1_sft, ..., and read the outputs of the stages before. Before
# anything is submitted, all flags, the existence of all data, and the rows of the first stage are
# checked. Prints the numbers of the three jobs.
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
    echo "slurm/pipeline.sh: error: $*" >&2
    exit 2
}

options=() root="$repo/output" dry_run="" check=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
        -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
        --dry_run | --dry-run) dry_run=yes ;;
        --check=*) check="${1#*=}" ;;
        --check) check="${2:-}" && shift ;;
        --output_dir=*) root="${1#*=}" ;;
        --output_dir) root="${2:-}" && shift ;;
        --dependency* | -d* | --array* | -a*) fail "$1 is for slurm/submit.sh, not for the three stages" ;;
        *) options+=("$1") ;;
    esac
    [ $# -eq 0 ] || shift
done
[ -n "$root" ] || fail "--output_dir needs a folder"
[[ "$check" =~ ^(full|flags|none|)$ ]] || fail "--check takes full, flags or none, got '$check'"
root="$(realpath -m -- "$root")" # jobs may start elsewhere

# The flags of each stage: those that connect them, then the common ones, then the stage's.
sft=(--output_dir "$root/step1_sft")
reward=(--model_name_or_path "$root/step1_sft" --output_dir "$root/step2_reward")
ppo=(--actor_model_name_or_path "$root/step1_sft" --reward_model_name_or_path "$root/step2_reward"
    --output_dir "$root/step3_ppo")
own_sft=() own_reward=() own_ppo=() block="" seen=" "
for word in "$@"; do
    case "$word" in --output_dir* | --output-dir*) fail "$word belongs before the first --" ;; esac
    case "$block:$word" in
        *:--) block=new ;;
        new:step1_sft | new:step2_reward | new:step3_ppo)
            [[ "$seen" != *" $word "* ]] || fail "$word is after two --; give its flags once"
            block="$word" seen+="$word "
            ;;
        new:-*) block=every && sft+=("$word") reward+=("$word") ppo+=("$word") ;;
        new:*) fail "after -- comes a flag or step1_sft, step2_reward or step3_ppo, got '$word'" ;;
        every:*) sft+=("$word") reward+=("$word") ppo+=("$word") ;;
        step1_sft:*) own_sft+=("$word") ;;
        step2_reward:*) own_reward+=("$word") ;;
        step3_ppo:*) own_ppo+=("$word") ;;
    esac
done
sft+=("${own_sft[@]}") reward+=("${own_reward[@]}") ppo+=("${own_ppo[@]}")

submit() { # stage, value of --check, options, --, flags
    bash "$repo/slurm/submit.sh" "$1" "${options[@]}" --check "$2" "${@:3}"
}
after() { # the job that must have succeeded
    echo "--dependency=afterok:$1 --kill-on-invalid-dep=yes"
}

[ -n "$dry_run" ] || exec 3>&1 1>/dev/null # only a dry run shows the output of the checks
submit step1_sft "${check:-full}" --dry_run -- "${sft[@]}"
later="${check/full/flags}" # their models do not exist yet
submit step2_reward "${later:-flags}" --dry_run -- "${reward[@]}"
submit step3_ppo "${later:-flags}" --dry_run -- "${ppo[@]}"
[ -z "$dry_run" ] || exit 0
exec 1>&3

jobs=()
trap '[ ${#jobs[@]} = 3 ] || [ ${#jobs[@]} = 0 ] || scancel "${jobs[@]}"' EXIT
job="$(submit step1_sft none -- "${sft[@]}")"
jobs+=("$job")
read -r -a behind <<<"$(after "$job")"
job="$(submit step2_reward none "${behind[@]}" -- "${reward[@]}")"
jobs+=("$job")
read -r -a behind <<<"$(after "$job")"
job="$(submit step3_ppo none "${behind[@]}" -- "${ppo[@]}")"
jobs+=("$job")
printf '%s\n' "${jobs[@]}"
