#!/usr/bin/env bash
# Submit one stage as a Slurm job that resumes after preemption and after its time limit.
#   bash slurm/submit.sh STAGE [sbatch options] [--dry_run] -- [stage flags]
#   bash slurm/submit.sh step3_ppo --nodes 2 --gpus-per-node 8 --time 4:00:00 -- --zero_stage 3
#   bash slurm/submit.sh step3_ppo --array 0-3 -- --seed %a --output_dir output/seed_%a
#
# STAGE is step1_sft, step2_reward or step3_ppo; its flags and OUTPUT_DIR, ACTOR_MODEL, ... are those
# of its run.sh. One process per GPU of --gpus-per-node; without GPUs one per node
# (--ntasks-per-node N). In an array %a is replaced by the task's number. The stage's flags, data and
# models are checked first (--check flags: flags, and that the data exist; --check none). --dry_run
# checks, prints what the job would need and when it could start (sbatch --test-only), and submits
# nothing. Prints the job's number.
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
    echo "slurm/submit.sh: error: $*" >&2
    exit 2
}

stage="${1:-}"
case "$stage" in
    step1_sft | step2_reward | step3_ppo) shift ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail "the first word is a stage, step1_sft, step2_reward or step3_ppo, got '$stage'" ;;
esac

options=() nodes=1 gpus="${SBATCH_GPUS_PER_NODE:-}" tasks="" array="" check=full dry_run="" previous=""
[[ "$gpus" != *,* ]] || fail "SBATCH_GPUS_PER_NODE takes GPUs of one type, got '$gpus'"
gpus="${gpus##*:}" has_own_log=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in # as --name value, --name=value or -Nvalue
        --*=*) name="${1%%=*}" value="${1#*=}" ;;
        -[!-]?*) name="${1:0:2}" value="${1:2}" ;;
        *) name="$1" value="${2:-}" ;;
    esac
    case "$name" in
        --dry_run | --dry-run) dry_run=yes ;;
        --check) check="$value" ;;
        --nodes | -N) nodes="$value" ;;
        --gpus-per-node)
            [[ "$value" != *,* ]] || fail "--gpus-per-node takes GPUs of one type, got '$value'"
            gpus="${value##*:}" # of type:number the number
            ;;
        --output | -o | --job-name | -J) has_own_log=yes ;;
        --*_*) fail "$name is no option of sbatch: flags of the stage come after the --" ;;
        --chdir | -D) fail "$name: submit from that folder instead; the flags are checked there" ;;
        --ntasks-per-node) tasks="$value" ;;
        --array | -a) array="$value" ;;
        --ntasks | -n) fail "$name: give --nodes and --ntasks-per-node" ;;
        --gres | --gpus | -G | --gpus-per-task) fail "$name: give --gpus-per-node; each GPU gets a process" ;;
        -*) ;;
        *) [[ "$previous" == -* && "$previous" != *=* ]] || fail "options for sbatch begin with -, got '$1'" ;;
    esac
    case "$name" in
        --dry_run | --dry-run) previous="" ;;
        --check) [[ "$1" == *=* ]] || shift ;;
        *) options+=("$1") previous="$1" ;;
    esac
    [ $# -eq 0 ] || shift
done
[ "${1:-}" = -- ] || fail "-- must separate the options for sbatch from the flags of $stage"
shift

tasks="${tasks:-${gpus:-1}}"
[[ "$check" =~ ^(full|flags|none)$ ]] || fail "--check takes full, flags or none, got '$check'"
[[ "$nodes" =~ ^[1-9][0-9]*$ ]] || fail "--nodes takes a number, got '$nodes'"
[[ "$tasks" =~ ^[1-9][0-9]*$ ]] || fail "--gpus-per-node and --ntasks-per-node take a number, got '$tasks'"
command -v sbatch >/dev/null || fail "no sbatch on this machine: submit from a node of the cluster"
for word in "$@"; do
    case "$word" in
        --dry_run* | --dry-run*) fail "$word belongs before the --" ;;
        --help | -h) fail "$word: for the flags run bash $stage/run.sh --help" ;;
    esac
done
log="%x-%j.out"
if [ -n "$array" ]; then
    log="%x-%A_%a.out"
    [[ "${OUTPUT_DIR:-} $*" == *%a* ]] ||
        fail "--array $array: its jobs would write to one folder; give --output_dir with %a in it"
fi

check_stage() {
    local first="${array%%[!0-9]*}" # the flags of an array's first job are checked
    local flags=("${@//%a/${first:-%a}}")
    export PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}"
    unset HOSTFILE NODE_RANK # jobs do not read them
    [ -z "$gpus" ] || flags+=(--dtype auto) # this machine may lack the GPUs' bf16
    case "$check" in
        full)
            NUM_GPUS="$tasks" bash "$repo/$stage/run.sh" "${flags[@]}" \
                --dry_run true --dry_run_ranks $((nodes * tasks))
            ;;
        flags) CLASSIC_RLHF_LAUNCHER=training.preflight.check_flags bash "$repo/$stage/run.sh" "${flags[@]}" ;;
    esac
}

said="$(check_stage "$@" 2>&1)" || {
    status=$?
    tail -n 1 <<<"$said" >&2
    exit "$status"
}
submit=(sbatch --parsable --job-name "$stage" --output "$log" --ntasks-per-node "$tasks" "${options[@]}")
[ -z "$dry_run" ] || submit+=(--test-only)
problem="$(mktemp)"
trap 'rm -f "$problem"' EXIT
status=0
job="$("${submit[@]}" "$repo/slurm/stage.sbatch" "$repo" "$stage" "$@" 2>"$problem")" || status=$?
if [ -n "$dry_run" ] && [ "$status" = 0 ]; then
    [ -z "$said" ] || printf '%s\n' "$said"
    [ "$check" != full ] || echo "memory and seconds are estimated for this machine, $(uname -n)"
    cat "$problem"
elif [ -n "$job" ]; then # with --wait the exit status is the job's
    job="${job%%;*}" # without the name of a cluster
    echo "$job"
    cat "$problem" >&2
    log="${log/\%x/$stage}" && log="${log/\%[jA]/$job}"
    where="; it writes to $log"
    [ -z "$has_own_log" ] || where=""
    echo "slurm/submit.sh: $stage is job $job$where" >&2
    exit "$status"
else
    head -n -1 "$problem" >&2
    reason="$(tail -n 1 "$problem")"
    fail "${reason#sbatch: error: }"
fi
