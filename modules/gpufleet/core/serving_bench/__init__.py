"""Load on an OpenAI endpoint: when requests are sent, and what their answers are worth."""
