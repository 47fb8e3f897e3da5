"""Scoring on many machines with Ray: one model a worker, prompts shared out, rows in order.

Reading order: ``scoring`` (what users call), ``schedule`` (which part is whose), ``team`` (the
workers, as actors of Ray), ``worker`` (what each does), ``wire`` (what goes between them: JSON as
bytes, nothing that would have to be unpickled), ``parts`` (jobs whose workers write). Needs the extra ``ray``.
"""

from forwardcache.distributed.scoring import score

__all__ = ["score"]
