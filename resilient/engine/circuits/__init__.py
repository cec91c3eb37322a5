"""Circuits as one process knows them: what lets a closed one cost no request.

`known` is one circuit: what is known of it (`local_view`), what it has counted (`tally`,
`outcomes`, `in_flight`), this process's own judgement, and what it has to say (`news`). `registry`
holds all of one backend, sends what they have counted and hears what the others' have come to.
"""
