"""Find out what an endpoint supports: the probe, the evidence it rests on, and its cache on disk."""
