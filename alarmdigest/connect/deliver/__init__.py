"""Out: a digest becomes messages to people."""
