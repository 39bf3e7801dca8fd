"""Search spaces (data) and the Optuna driver; empty as yet."""
