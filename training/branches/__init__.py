"""How the model of bench/explore_toy.py is made: a world of branching paths whose law is known, and a model of it."""
