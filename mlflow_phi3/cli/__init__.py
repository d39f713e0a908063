"""The mlflow-phi3 command."""
