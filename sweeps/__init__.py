"""Sweeps: search spaces, and trials of them that Optuna chooses and the harness trains."""
