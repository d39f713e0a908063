"""The search: Optuna decides, a backend trains, MLflow shows."""
