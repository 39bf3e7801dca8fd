"""The training of one cell: loop, step, losses, checkpoints, evaluation."""
