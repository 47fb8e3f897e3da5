"""One scoring call, from items to values that are kept.

Reading order: ``scorer`` and ``call``, ``ops`` and ``windows`` (what is asked), ``budget`` (batches
within memory), ``slices``, ``shelf`` and ``selfcheck`` (values that were kept), ``provenance``,
``noise``, ``preflight`` and ``rehearsal`` (what a computation was, and what one would be).
"""
