"""One file for each outside system; nothing here decides."""
