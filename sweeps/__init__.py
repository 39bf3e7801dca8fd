"""Sweeps: search spaces, whose trials Optuna chooses and the harness trains."""
