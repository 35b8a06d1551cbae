"""The four systems on a real language model: `make bench NAME=real`. See __main__.py and docs/evidence.md."""
