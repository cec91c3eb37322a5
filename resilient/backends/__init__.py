"""The backends: one module or folder each; none imports another."""
