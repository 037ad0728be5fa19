#!/bin/sh
# The tests of SLURM, on a cluster of this machine alone: two nodes that are two slurmd, everything in a temporary
# folder, ended and removed again. As root, on Debian after
#   apt-get install --no-install-recommends slurm-wlm munge
#   tests/slurm.sh [pytest's arguments]
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
mkdir "$folder/state" "$folder/auth"
chmod 755 "$folder"
finish() {
    for file in "$folder"/*.pid; do kill "$(cat "$file")" 2>/dev/null || true; done
    sleep 2
    rm -rf "$folder"
}
trap finish EXIT INT TERM

head -c 1024 /dev/urandom > "$folder/auth/key"
chmod 700 "$folder/auth"; chmod 400 "$folder/auth/key"
munged --force --key-file="$folder/auth/key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munge.pid" --log-file="$folder/munge.log" --seed-file="$folder/auth/seed"

# Jobs of "low" are queued again when one of "high" needs their place; they get SIGTERM, and GraceTime seconds
# later SIGKILL.
host=$(hostname -s)
cat > "$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=2,sched_interval=2,requeue_delay=1
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=16818 CPUs=4 RealMemory=16000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=16819 CPUs=4 RealMemory=16000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=2
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
END
export SLURM_CONF="$folder/slurm.conf"
slurmctld -c
slurmd -N n1
slurmd -N n2
until [ "$(sinfo --noheader --format=%t | sort -u)" = idle ]; do sleep 0.5; done
MMLABEL_TEST_SLURM=1 .venv/bin/python -m pytest -q -p no:cacheprovider -m slow tests/test_slurm.py "$@"
