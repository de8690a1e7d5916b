"""What is started from a shell, and how it reads its arguments."""
