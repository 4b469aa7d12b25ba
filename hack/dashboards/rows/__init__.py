"""One module for each row: its question, and the panels that answer it."""
