#!/usr/bin/env bash
# One training on several Slurm nodes: Ray starts with the allocation and ends with it.
#   sbatch --nodes 2 cluster/slurm/train.sh jobs/finetune-codebert.yaml [further options of `secauditai train start`]
#   sbatch --nodes 2 cluster/slurm/train.sh resume MODEL [further options of `secauditai train resume`]
#SBATCH --job-name=secauditai
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --output=secauditai-%j.log
set -euo pipefail

if [[ ${1-} == resume && $# -ge 2 ]]; then
    work=(resume --model "$2")
    shift 2
elif [[ -f ${1-} ]]; then
    work=(start --config "$(realpath "$1")")
    shift
else
    echo "Usage: sbatch cluster/slurm/train.sh CONFIG.yaml [OPTION…], or … train.sh resume MODEL [OPTION…]" >&2
    exit 2
fi

# The project on storage that all nodes share, with its environment in .venv, and the workspace beside it.
project=${SLURM_SUBMIT_DIR:?run this with sbatch}
export SECAUDITAI_WORKSPACE=${SECAUDITAI_WORKSPACE:-$project/.secauditai}
export PATH="$project/.venv/bin:$PATH"

set -a
# shellcheck source=/dev/null
. "${SECAUDITAI_ENV:-$HOME/.secauditai/nodes.env}"
set +a

# Nodes may be shared with other users: a token of this job's own, readable by its user alone, which every node must present.
umask 077
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN_PATH=$(mktemp "$project/.ray-token-XXXXXX")
export RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH RAY_USAGE_STATS_ENABLED=0
finished=$RAY_AUTH_TOKEN_PATH.finished
trap 'rm -f "$RAY_AUTH_TOKEN_PATH" "$finished"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one node do not meet
# A directory of this job's own. symmetric-run looks for the Ray it has started in the one that the environment names, not in --temp-dir's.
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID
# Importing Ray from shared storage takes a while when all nodes do it at once.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}

# Starts Ray on every node, runs the command on the first one when all have joined, and stops Ray again. It ends with 0 even when Ray
# does not start or it is interrupted, so the command leaves a mark when it has ended well.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 ray symmetric-run \
    --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --dashboard-host 127.0.0.1 \
    -- bash -c '"$@" && : > "$0"' "$finished" secauditai train "${work[@]}" --address auto "$@"
if [[ ! -e $finished ]]; then
    echo "Error: the training did not run to its end: Ray did not start, or was interrupted (see above)." >&2
    exit 1
fi
