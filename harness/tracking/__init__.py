"""What is stored in MLflow, and how it is written and read."""
