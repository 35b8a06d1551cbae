"""What to run next, read from what is stored: calibration of scores, stop rules in replay, and plans."""
