"""Adapters made for a model, and what the model computes with each: what an engine is held against.

Reading order: ``places`` (which modules there are, by kind), ``recipes`` (which adapters are
made), ``exact`` (the model in 32 bits, with an adapter or with parts of one), ``plant`` (an adapter
is made, made strong enough, and saved).
"""
