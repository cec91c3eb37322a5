"""Stateful tests: a store and its reference model are asked the same, and answer the same."""
