#!/bin/bash
# Several nodes under SLURM: one launcher per node, one process per GPU.
#
#   sbatch --nodes 4 recipes/slurm_multi_node.sh recipes/qwen2_5_7b.yaml --gradient_accumulation_steps 1 \
#          --per_device_train_batch_size 4
#
# The size of a step is nodes x GPUs x per_device_train_batch_size x gradient_accumulation_steps: keep it at 128.
# The output folder has to be on a file system that all nodes share. Five minutes before the time is up, SLURM sends
# SIGTERM; the run writes a checkpoint and ends, and the job, put back into the queue, goes on from there.
#SBATCH --job-name=dynimg-vl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

GPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-8}
NUM_PROCESSES=$((SLURM_JOB_NUM_NODES * GPUS_PER_NODE))
# How long a launcher waits for a checkpoint before it kills its processes (torch 2.9 and later; 30 s by default).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=270
HEAD_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" \
  --nproc-per-node "$GPUS_PER_NODE" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$HEAD_NODE:29500" \
  --rdzv-id "$SLURM_JOB_ID" \
  -m dynimg_vl train "$@" --num_processes "$NUM_PROCESSES" &
LAUNCHER=$!

stop_and_requeue() {
  # To the launchers alone would do as well; they hand it on to their processes.
  kill -TERM "$LAUNCHER" 2>/dev/null || true
  wait "$LAUNCHER" || true
  scontrol requeue "$SLURM_JOB_ID"
}
trap stop_and_requeue TERM
wait "$LAUNCHER"
