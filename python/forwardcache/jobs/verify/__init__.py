"""Rows of a run scored again, to check a table without trusting it.

Reading order: ``options`` (what was asked for), ``recorded`` (what the run says of itself),
``plan`` (is it the same model, adapter and prompts; which rows are checked) with ``folders`` and
``table`` (the rows), ``bound`` (how far a value may be off) with ``elsewhere`` (is it the same
arithmetic), ``again`` (the rows computed here) with ``others`` (of other models), ``findings``
(what is off) and ``run`` (all of it).

Nothing that a table or its facts say is believed: they name files, whose contents are compared with
their digests, and values, which are computed again.
"""
