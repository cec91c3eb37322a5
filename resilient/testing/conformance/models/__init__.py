"""Plain reference models: what a store should have answered.

They import nothing of the library, the standard library only. Each transcribes one protocol's
docstrings (`resilient/protocols/`), whose sentences its own docstrings repeat, with a clock that
its machine moves by hand (`now`, in seconds). Answers are named tuples with the names and fields of
the protocol's. Fences and generations are small numbers here: the machines check that the store's
differ exactly where the model's do, and that they grow.
"""
