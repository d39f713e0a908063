"""Training trials on a frozen base; knows neither MLflow nor Optuna."""
