"""One script for each published number: `make bench NAME=x` runs bench/x.py."""
