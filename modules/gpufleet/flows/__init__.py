"""Orders of steps: observe, decide, act, verify."""
