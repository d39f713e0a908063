"""Fine-tune Microsoft's Phi models with MLflow and Optuna, and ship the winner to Azure."""

__version__ = "0.1.0"
