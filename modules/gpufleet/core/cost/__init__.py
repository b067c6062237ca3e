"""What serving costs, on own GPUs and hosted, and which of the two a use case should take."""
