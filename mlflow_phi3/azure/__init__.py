"""Azure, through Microsoft's own SDK: the only room that imports it."""
