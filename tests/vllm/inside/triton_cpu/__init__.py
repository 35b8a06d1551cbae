"""A backend of Triton that runs nothing: with it vLLM believes in Triton on a CPU, and the interpreter does the work.

Found by Triton under the entry point that test_second_runner.py writes.
"""
