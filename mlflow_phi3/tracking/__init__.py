"""MLflow: runs, data, checkpoints and registered models. No other room talks to MLflow."""
