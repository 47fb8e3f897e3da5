"""lm-evaluation-harness over a ``HFBackend``: importing this registers the model ``forwardcache``.

From a shell, ``python -m forwardcache.integrations.lm_eval`` is the harness's own command line with
that model in it. Needs the extra ``lm-eval``.
"""

import sys

from forwardcache.errors import MissingExtraError
from forwardcache.extras import extra_named

try:
    with extra_named("forwardcache.integrations.lm_eval"):
        from forwardcache.integrations.lm_eval.model import ForwardCacheLM
except MissingExtraError as missing:
    # ``python -m`` imports this to find its ``__main__``, and has this name until it has found it.
    if sys.argv[0] != "-m":
        raise
    print(f"forwardcache: {missing}", file=sys.stderr)
    sys.exit(2)

__all__ = ["ForwardCacheLM"]
