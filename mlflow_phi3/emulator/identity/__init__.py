"""Sign-in: who gets a token, and whether a token is good."""
