"""How the branching-paths model of bench/explore_toy.py is made: a world of paths whose law is known, and a model of it."""
