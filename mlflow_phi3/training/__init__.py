"""The training engine; knows neither MLflow nor Optuna."""
