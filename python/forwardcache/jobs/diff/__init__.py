"""How far views are from a reference, over texts: texts and views in, a ``DiffResult`` out.

Reading order: ``options`` (what was asked for) with ``lambdas``, ``plan`` (which texts are
compared, through which views), ``found`` (what is known of them) with ``kept``, ``resume`` and
``begun`` (where an unfinished run goes on), ``measured`` (what rounding makes), ``compared`` (the
comparison, chunk by chunk) with ``rows`` and ``token_texts``, ``nulls`` (is it more than a random
change?), ``detect`` (how little of it can be seen?), ``moved`` (the positions that moved most),
``others`` and ``other_views`` (other models), ``notes`` (what a reader has to know), ``facts``
(which run it was), ``run`` (all of it); then what is made of a result: ``junit``.
"""
