"""An Azure that fits on one machine, and that Microsoft's own SDK talks to over TLS.

The emulator is a process of its own: resource manager, sign-in, workspace assets, blob storage
(Microsoft's Azurite behind the same port) and online endpoints whose deployments are real scoring
processes. A service is a folder: ``state.py`` knows its rules and no HTTP, ``routes.py`` maps
requests onto it; the registry, which nobody changes, needs no state. Faults, the journal and
operations, which are of no one service, are a file each. State lives in SQLite, where a request
that changes something is one transaction, so it survives a restart and a kill.
"""
