"""What a workspace holds: itself, datastores, models, data."""
