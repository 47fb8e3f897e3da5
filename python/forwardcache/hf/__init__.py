"""Hugging Face models as views, every forward once.

Reading order: ``backend`` (what users make), ``inspection`` and ``admission``
(what it tells), ``comparing`` (how far views are apart) with ``top_tokens`` (where) and
``rounding`` (how far arithmetic alone would put them), ``view`` and ``scoring_methods`` (what they
score with), ``spec`` (which view), ``stored`` (what a store answers without the model), ``scoring``
(one call, from text to kept values), ``states`` (a model's head on kept hidden states), ``model``
(what is loaded, whether it is still the same, which view it is in), ``text`` (from text to tokens),
``batch`` (from tokens to numbers), ``stream`` (from prompts to new text), ``others`` (models beside
a reference), ``planting`` (adapters made to check an engine with), ``arithmetic``.
Importing this imports none of torch, transformers and peft: they come with the first of its names
that is asked for. Only ``stored`` does without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forwardcache.extras import extra_named, require

if TYPE_CHECKING:
    from forwardcache.hf.admission import Admission
    from forwardcache.hf.backend import HFBackend
    from forwardcache.hf.scoring_methods import Operations
    from forwardcache.hf.stream.engine import HFEngine
    from forwardcache.hf.text.chat import RenderedPrompt
    from forwardcache.hf.view import HFView

__all__ = ["Admission", "HFBackend", "HFEngine", "HFView", "Operations", "RenderedPrompt"]

_HOMES = {
    "Admission": "admission",
    "HFBackend": "backend",
    "HFEngine": "stream.engine",
    "HFView": "view",
    "Operations": "scoring_methods",
    "RenderedPrompt": "text.chat",
}

require(__name__, "numpy", "torch", "transformers", "peft", "safetensors", "tokenizers")


def __getattr__(name: str) -> Any:
    """One of the public names, imported when it is first asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extra_named(__name__):
        found = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
