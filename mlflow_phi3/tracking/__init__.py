"""MLflow as the workflows use it: runs, data, checkpoints and registered models."""
