"""Built-in tasks: a checkpoint to a Landscape."""
