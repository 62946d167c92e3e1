"""The logs of the machines around a run: kernels, NCCL, ranks' stderr, Slurm, nvidia-smi."""
