"""Programs for the shell, and their arguments."""
