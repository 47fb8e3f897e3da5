"""Other models held against a reference, one after another, never two of them in memory.

Of a model that was run only two things are kept: the final hidden states of the texts (``spool``)
and the head, whose weights lie in a temporary file while another model is in memory (``head``).
What two models differ by is made of these alone (``differences``).

Reading order: ``models`` (what users call), ``texts`` (which tokens), ``vocabulary`` (of both),
``states`` (a model's run), ``head``, ``differences``, ``spool``, ``memory``.
"""

from forwardcache.hf.others.models import compare_models

__all__ = ["compare_models"]
