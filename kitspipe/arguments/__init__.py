"""Arguments of every command, nothing else."""
