"""lm-evaluation-harness over a ``HFBackend``: importing this registers the model ``forwardcache``.

From a shell, ``python -m forwardcache.integrations.lm_eval`` is the harness's own command line with
that model in it. Needs the extra ``lm-eval``.
"""

from forwardcache.extras import extra_named

with extra_named("forwardcache.integrations.lm_eval"):
    from forwardcache.integrations.lm_eval.model import ForwardCacheLM

__all__ = ["ForwardCacheLM"]
