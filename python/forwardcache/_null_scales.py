"""Of a null view: the scales of its random adapter, unless others are given."""

INIT_SCALE = 0.02
"""Standard deviation of the weights that are drawn."""

RANK_SCALE = 1.0
"""The rank, as a share of the adapter's."""
