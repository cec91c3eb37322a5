"""What each decorator costs, side by side with others that do the same: `python -m benchmarks`."""
