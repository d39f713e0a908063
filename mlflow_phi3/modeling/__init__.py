"""Phi models: what exists, how one is loaded, merged and made to speak."""
