"""Tensors in, tensors out: the operations a model of the family is made of.

One folder an op: `reference.py` says it plainly and works in float64; `torch.py` is the fast path on any
device torch knows. `Ops` (ops.py) is the record of callables that a model uses.

Letters: T packed tokens · N sequences · H heads · G key/value heads · D head width · E experts ·
K experts a token · F expert width · M model width · V vocabulary · B block of tokens.
"""
