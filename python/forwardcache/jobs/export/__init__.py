"""What a trainer reads of a model: a teacher's most likely tokens, a reference's log-probabilities.

Both are rows of one view in a file that grows as they are computed.

Reading order: ``options`` (what was asked for), ``preference`` (pairs as TRL's ``DPOTrainer`` reads
them), ``plan`` (texts or pairs in, tokens out), ``rows`` and ``totals`` (what a row holds, and what
all of them come to), ``run`` (the loop) with ``resume``, ``facts`` (which run it was).
"""
