"""Pulumi components. With `stacks/` the only code that imports pulumi; no arithmetic in here."""
