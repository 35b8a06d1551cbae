"""Samplewise as a part of other people's programs. Each module needs the program that it is for."""
