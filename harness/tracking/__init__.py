"""Storage of runs in MLflow: opening the store, writing runs, and reading them."""

import os

# MLflow reads these when it is imported, whichever module of this package comes first.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The driver retries a server that does not answer, and says so; MLflow's own retries are silent.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow would print a link to every run that ends, with any password in the server's address.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
