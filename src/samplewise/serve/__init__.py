"""An OpenAI-compatible server whose models are recipes."""
