"""The door to MLflow: runs, metrics and the model registry."""
