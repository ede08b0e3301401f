"""Basin volumes of a checkpoint, and how far they can be trusted."""
