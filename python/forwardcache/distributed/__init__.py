"""Scoring by many workers: one model each, prompts shared out, rows in order.

Reading order: ``scoring`` (what users call), ``schedule`` (which part is whose), ``crew`` (workers,
whatever they run on), ``local`` (as processes of this machine: ``shares`` says what each has of it,
``process`` is what it runs), ``team`` (as actors of Ray, with the extra ``ray``), ``worker`` (what
each does), ``counters`` (what that adds up to), ``wire`` (what goes between them: JSON as bytes,
nothing that would have to be unpickled), ``parts`` (jobs whose workers write).
"""

from forwardcache.distributed.scoring import score

__all__ = ["score"]
