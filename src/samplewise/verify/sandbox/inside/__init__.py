"""Code that runs inside the sandbox. It imports the standard library alone: nothing else is visible there."""
