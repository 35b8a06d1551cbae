"""The tiny arithmetic model: its puzzles, tokenizer, training and evaluation."""
