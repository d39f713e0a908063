"""What happens to a deployed model: its traffic, its cost, and how far its users have moved."""
