#!/bin/bash
# Workers as an array of jobs. Make the study once, anywhere, then submit:
#   rulesearch sweep CONFIG --storage "$STORAGE" --out /shared/runs/NAME --workers 0
#   STORAGE=postgresql://me@db/rulesearch sbatch slurm.sh
# Submit more, or cancel some, at any time: jobs that are cancelled, preempted or out of time
# leave their trial to the others.
#SBATCH --job-name=rulesearch
#SBATCH --array=0-15
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun rulesearch worker "${STORAGE:?the address of the database}"
