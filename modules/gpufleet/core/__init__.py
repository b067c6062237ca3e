"""Pure decisions: no I/O, no clock, nothing random."""
