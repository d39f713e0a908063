"""Resource groups, template deployments, and what a hub is connected to."""
