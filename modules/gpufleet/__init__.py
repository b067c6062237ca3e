"""gpufleet: infrastructure as code and operations for large language models on own GPUs."""
