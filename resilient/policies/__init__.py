"""The policies: each a plan, readable from top to bottom, and the decorator around it."""
