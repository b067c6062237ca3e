"""gpufleet: infrastructure as code and lifecycle automation for large language models on own GPUs."""
