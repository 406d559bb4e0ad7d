"""Training: the loop, the optimiser, the records of a run. Depends on methods.base, a module and batches alone."""
