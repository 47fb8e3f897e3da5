"""Hugging Face models as views, every forward once.

Reading order: ``backend`` (what users make), ``load`` and ``tokenizer_file``, ``view`` and
``operations`` (what they score with), ``scorer`` and ``call`` (one call), ``lock``, ``spec``,
``switch`` and ``norms`` (which view, putting the model into it, how much it adds), ``identity``,
``watch``, ``code``, ``checksum`` and ``adapter`` (what the model is), ``chat`` and ``encode``,
``plan``, ``family``, ``budget``, ``forward``, ``pack``, ``prefix``, ``kvcache``, ``kernels``,
``ops``, ``windows`` and ``slices`` (from text to values), ``shelf`` and ``selfcheck`` (values
that were kept), ``noise``, ``preflight``, ``provenance``, ``arithmetic`` and ``rehearsal``.
Texts and streams: ``generate``; ``engine``, ``decode``, ``sample``, ``request``.
Under ``encode``: ``item``, ``ahead``, ``tokens`` and ``boundary``. Under ``load``:
``tokenizer_choice``.
Importing this imports torch, transformers and peft.
"""

from forwardcache.extras import extra_named

with extra_named("forwardcache.hf"):
    from forwardcache.hf.backend import HFBackend
    from forwardcache.hf.chat import RenderedPrompt
    from forwardcache.hf.engine import HFEngine
    from forwardcache.hf.operations import Operations
    from forwardcache.hf.view import HFView

__all__ = ["HFBackend", "HFEngine", "HFView", "Operations", "RenderedPrompt"]
