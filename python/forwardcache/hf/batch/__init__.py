"""Rows of tokens in, numbers out. Knows no text and no cache.

Reading order: ``row`` (tokens of one item, and which are scored), ``plan`` and ``prefix_group``
(which rows go through the model together), ``limits``, ``forward``, ``body``, ``pack``, ``prefix``,
``kvcache``, ``row_factors``, ``spoilt``, ``memory``, ``states`` (as values that are kept) and
``rounding`` (how), ``ways``, ``reach`` and ``probe`` (what a model is let do), ``kernels`` and
``differences`` (what is kept of the logits), ``context`` (how many tokens a row may have).
"""
