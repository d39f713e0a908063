"""Blob storage: Azurite beside the emulator."""
