"""gpufleet's plugin for the LiteLLM proxy."""
