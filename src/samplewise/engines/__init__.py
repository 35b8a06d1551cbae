"""What answers asks: an engine per file or folder. `base` has the interface, `distribution` how a token is drawn."""
