"""The simulated engine: an OpenAI-compatible server, timed by the capacity model."""
