#!/usr/bin/env bash
# Start a private Slurm (munged + slurmctld + N slurmd) on this machine, without systemd.
# usage: start-local-slurm.sh STATE_DIR [NODES] [CPUS_PER_NODE]
# Loopback only, nothing outside STATE_DIR is written. Running it again on a live cluster
# does nothing. Then:  source STATE_DIR/env   (exports SLURM_CONF), and use sbatch/srun/...
set -euo pipefail

dir=${1:?usage: $0 STATE_DIR [NODES] [CPUS_PER_NODE]}
nodes=${2:-2}
cpus=${3:-8}
PATH=$PATH:/usr/sbin:/sbin

for tool in munged mungekey slurmctld slurmd scontrol sinfo python3; do
  command -v "$tool" >/dev/null || { echo "missing $tool: install the slurm-wlm and munge packages" >&2; exit 3; }
done
[[ $nodes =~ ^[1-9][0-9]*$ && $cpus =~ ^[1-9][0-9]*$ ]] || { echo "NODES and CPUS_PER_NODE are whole numbers" >&2; exit 2; }

mkdir -p "$dir"/{state,spool,log,run}
dir=$(cd "$dir" && pwd -P)
chmod 755 "$dir" "$dir"/{state,spool,log,run}
export SLURM_CONF=$dir/slurm.conf
# unix socket paths end at 107 bytes
(( ${#dir} <= 80 )) || { echo "STATE_DIR is too long for a socket path (${#dir} > 80): $dir" >&2; exit 2; }

# A cluster made earlier keeps its size.
[[ -f $SLURM_CONF ]] && nodes=$(grep -c '^NodeName=' "$SLURM_CONF")

# A process counts as alive only if it is not a zombie: under a PID 1 that reaps late,
# kill -0 keeps succeeding on a dead daemon.
alive() {
  local pid state
  pid=$(cat "$1" 2>/dev/null) || return 1
  state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status" 2>/dev/null) || return 1
  [[ -n $state && $state != Z && $state != X ]] || return 1
  # and not another program that got the same pid since
  [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$(basename "$1" .pid | sed 's/-.*//')"* ]]
}
ready() { # every node idle/mixed/allocated and not flagged as not responding
  local n
  n=$(sinfo -h -N -o '%N %T' 2>/dev/null | awk '$2 ~ /^(idle|mixed|allocated|completing|planned|reserved)$/' | sort -u | wc -l) || return 1
  [[ $n -eq $nodes ]]
}

if [[ -f $dir/env ]] && alive "$dir/run/slurmctld.pid" && ready; then
  echo "already running: source $dir/env"; exit 0
fi

user=$(id -un)
if ! alive "$dir/run/munged.pid"; then
  rm -f "$dir"/run/munge.sock*
  [[ -f $dir/munge.key ]] || mungekey --create --keyfile "$dir/munge.key"
  munged --socket="$dir/run/munge.sock" --key-file="$dir/munge.key" --pid-file="$dir/run/munged.pid" \
         --seed-file="$dir/munge.seed" --log-file="$dir/log/munged.log"
fi

if [[ ! -f $SLURM_CONF ]]; then
  # one free port for the controller, one for each node, all on loopback
  read -r -a ports < <(python3 - "$((nodes + 1))" <<'PY'
import socket, sys
held = []
for _ in range(int(sys.argv[1])):
    s = socket.socket(); s.bind(("127.0.0.1", 0)); held.append(s)
print(*[s.getsockname()[1] for s in held])
PY
)
  {
    cat <<CONF
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=${ports[0]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
# no cgroups, no CPU binding: works in a container or a small VM
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
MpiDefault=none
SwitchType=switch/none
# declared CPUs and memory may exceed the machine's
SlurmdParameters=config_overrides
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
PropagatePrioProcess=1
KillWait=5
MinJobAge=3600
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=20
# no database: finished jobs are read with  sacct -c -f STATE_DIR/log/jobcomp.txt
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobcomp.txt
CONF
    for ((i = 1; i <= nodes; i++)); do
      echo "NodeName=n$i NodeHostname=localhost NodeAddr=127.0.0.1 Port=${ports[i]} CPUs=$cpus RealMemory=16000 Gres=gpu:2 State=UNKNOWN"
    done
    echo "PartitionName=main Nodes=ALL Default=YES DefaultTime=01:00:00 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off"
    echo "PartitionName=preemptible Nodes=ALL DefaultTime=01:00:00 MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5"
  } > "$SLURM_CONF"
  # two "GPUs" a node, to be counted and never opened
  printf "Name=gpu File=%s\n" /dev/null /dev/zero > "$dir/gres.conf"
fi

alive "$dir/run/slurmctld.pid" || { rm -f "$dir/run/slurmctld.pid"; slurmctld -f "$SLURM_CONF"; }

# Each slurmd gets its own mount and host-name namespace where that is allowed (root), so
# that inside jobs `hostname` is the node's name and node names resolve, as on a cluster.
{ cat /etc/hosts; for ((i = 1; i <= nodes; i++)); do echo "127.0.0.1 n$i"; done; } > "$dir/hosts"
for ((i = 1; i <= nodes; i++)); do
  alive "$dir/run/slurmd-n$i.pid" && continue
  rm -f "$dir/run/slurmd-n$i.pid"
  if [[ $(id -u) -eq 0 ]] && unshare --mount --uts true 2>/dev/null; then
    # shellcheck disable=SC2016  # for the inner shell to expand
    unshare --mount --uts bash -c 'hostname "$1"; mount --bind "$2" /etc/hosts; exec slurmd -N "$1" -f "$3"' \
      _ "n$i" "$dir/hosts" "$SLURM_CONF"
  else
    slurmd -N "n$i" -f "$SLURM_CONF"
  fi
done

printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" > "$dir/env"
for _ in $(seq 150); do ready && { echo "ready: source $dir/env"; exit 0; }; sleep 0.1; done
echo "the nodes did not come up; see $dir/log" >&2
sinfo -N -l >&2 || true
exit 1
