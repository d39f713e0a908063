"""An Azure that fits on one machine, and that Microsoft's own SDK talks to over TLS.

The emulator is a process of its own: resource manager, sign-in, workspace assets, blob storage
(Microsoft's Azurite behind the same port) and online endpoints whose deployments are real scoring
processes. Every service is the same few files: ``state.py`` knows the service's rules and no HTTP,
``routes.py`` maps requests onto it. State lives in SQLite, so it survives a restart.
"""
