"""What MLflow loads by entry point, one module each."""
