"""What Azure Monitor and the data collector see of endpoints' calls."""
