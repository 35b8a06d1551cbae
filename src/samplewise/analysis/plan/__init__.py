"""Plan what to run next from what is stored: calibrated scores, stop rules in replay, options with their cost."""
