"""What the harness costs beside the arithmetic: measured, and held against bounds."""
