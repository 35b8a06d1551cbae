"""What runs inside the sandbox. Imports the standard library alone: nothing else is visible there."""
