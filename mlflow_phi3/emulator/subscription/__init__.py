"""The subscription: its state, regions, quota, machine types and resource providers."""
