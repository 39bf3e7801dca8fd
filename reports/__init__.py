"""MLflow runs -> one tidy frame -> statistics -> tables, figures and pages."""
