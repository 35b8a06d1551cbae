"""samplewise: many samples, one good answer, as few tokens as possible."""
