"""Where a trial trains."""
