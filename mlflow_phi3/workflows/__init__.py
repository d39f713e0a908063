"""One file a feature word: parse, call the rooms below, log."""
