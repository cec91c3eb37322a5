"""Circuits as one process knows them: what lets a closed one cost no request.

`known` is one circuit: the local view, the accumulator of outcomes, and this process's own
judgement. `registry` holds all of one backend, sends what they have counted and hears what the
others' have come to.
"""
