"""Hugging Face models as views, every forward once.

Reading order: ``backend`` (what users make), ``inspection`` and ``admission``
(what it tells), ``comparing`` (how far views are apart) with ``top_tokens`` (where) and
``rounding`` (how far arithmetic alone would put them), ``view`` and ``scoring_methods`` (what they
score with), ``spec`` (which view), ``scoring`` (one call, from text to kept values), ``states`` (a
model's head on kept hidden states), ``model``
(what is loaded, whether it is still the same, which view it is in), ``text`` (from text to tokens),
``batch`` (from tokens to numbers), ``stream`` (from prompts to new text), ``others`` (models beside
a reference), ``planting`` (adapters made to check an engine with), ``arithmetic``.
Importing this imports torch, transformers and peft.
"""

from forwardcache.extras import extra_named

with extra_named("forwardcache.hf"):
    from forwardcache.hf.admission import Admission
    from forwardcache.hf.backend import HFBackend
    from forwardcache.hf.scoring_methods import Operations
    from forwardcache.hf.stream.engine import HFEngine
    from forwardcache.hf.text.chat import RenderedPrompt
    from forwardcache.hf.view import HFView

__all__ = ["Admission", "HFBackend", "HFEngine", "HFView", "Operations", "RenderedPrompt"]
