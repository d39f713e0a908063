"""What the commands do, and what several of them share: parse, call the rooms below, log."""
