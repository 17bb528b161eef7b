#!/bin/bash
# Train on several machines with SLURM: sbatch examples/cluster/slurm.sh image.2b /shared/runs/2b --set dataset.folder=DIR ...
# --out and the data are on a file system that all machines share. hsdp keeps the weights of a copy on one machine.
#SBATCH --job-name=lumina
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1      # torchrun starts a process per GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue                # after a failed machine the job starts again, and --auto-resume continues it
#SBATCH --signal=TERM@120
set -euo pipefail
recipe=$1 out=$2
shift 2
master=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=8
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$master:29500" \
    -m lumina_core train "$recipe" --out "$out" --auto-resume --quiet --set training.parallel=hsdp "$@"
