"""What is patched when, what may be combined, what stops it, and what is overdue."""
