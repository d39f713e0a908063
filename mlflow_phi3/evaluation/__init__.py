"""Know how good a model is, and whether it is better."""
