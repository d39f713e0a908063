"""Fine-tuning jobs: what the service accepts, their states, and our real training behind them."""
