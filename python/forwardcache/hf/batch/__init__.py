"""Rows of tokens in, numbers out. Knows no text and no cache.

Reading order: ``row`` (tokens of one item, and which are scored), ``plan`` and ``prefix_group``
(which rows go through the model together), ``forward``, ``pack``, ``prefix`` and ``kvcache`` (how),
``kernels`` (what is kept of the logits).
"""
