"""Training: the loop, its optimiser, its records. Sees a method, a module and batches, nothing else."""
