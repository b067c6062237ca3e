"""How many GPUs hold what users are promised: speed, queueing, sizing, choice, headroom."""
