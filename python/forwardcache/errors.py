"""Everything that this package raises on purpose, as one tree.

::

    ForwardCacheError
    ├── InvalidInputError (also ValueError)    what the caller gave can't be used
    │   ├── EmptyPromptError                   nothing stands before the first scored token
    │   ├── EmptyCompletionError               the completion adds no token
    │   ├── ContextLengthError                 longer than the model can take
    │   ├── ViewParameterError                 a view's parameter is out of range
    │   ├── UnsupportedModelError              this model or view can't be scored exactly
    │   ├── AdapterError                       no adapter, or one of another model
    │   ├── ModelLoadError                     the model's folder is missing or broken
    │   └── ViewStateError (also RuntimeError) a view is used where it is not in force
    │       ├── StaleViewError                 after its ``with`` ended
    │       └── NestedViewError                inside another view's ``with``, or inside a forward
    ├── ModelMemoryError (also MemoryError)    a prompt doesn't fit into memory, not even alone
    ├── NonFiniteError (also ArithmeticError)  no token can be drawn from the logits
    ├── MachineError (also RuntimeError)       disk or memory gave out in a job
    ├── EngineStateError (also RuntimeError)   an engine is not running, or runs already
    ├── MissingExtraError (also ImportError)   a package that an extra brings isn't installed
    ├── WorkerError (also RuntimeError)        the workers of a cluster can't do the job
    └── InterruptedRunError                    Ctrl-C came during a job

A batched call raises the error of its first bad item, of the same class as the single call would;
``index`` and ``results`` then say which item it was and what became of the others.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AdapterError",
    "ContextLengthError",
    "EmptyCompletionError",
    "EmptyPromptError",
    "EngineStateError",
    "ForwardCacheError",
    "InterruptedRunError",
    "InvalidInputError",
    "MachineError",
    "MissingExtraError",
    "ModelLoadError",
    "ModelMemoryError",
    "NestedViewError",
    "NonFiniteError",
    "StaleViewError",
    "UnsupportedModelError",
    "ViewParameterError",
    "ViewStateError",
    "WorkerError",
]


class ForwardCacheError(Exception):
    """Root of all errors of this package.

    Attributes:
        index: Position of the bad item in the batch; None outside a batched call.
        results: What a batched call has for every position, in order: a value, or the error that
            stands for it. None outside a batched call. The values are cached.
    """

    index: int | None = None
    results: list[Any] | None = None


class InvalidInputError(ForwardCacheError, ValueError):
    """What the caller gave can't be used; the message names the value and what is allowed."""


class EmptyPromptError(InvalidInputError):
    """No token stands before the first scored one, and the tokenizer has no BOS token."""


class EmptyCompletionError(InvalidInputError):
    """The completion is empty or adds no token to the prompt, so there is nothing to score."""


class ContextLengthError(InvalidInputError):
    """The tokens are more than the model has positions for; the message has both numbers."""


class ViewParameterError(InvalidInputError):
    """A view's parameter (lam, seed, init_scale, rank_scale) or ``top_k`` is out of range."""


class UnsupportedModelError(InvalidInputError):
    """This model, or the view asked for, can't be scored exactly; the message has the reason."""


class AdapterError(InvalidInputError):
    """There is no adapter where one is needed, or it belongs to another model."""


class ModelLoadError(InvalidInputError):
    """The folder holds no model and tokenizer that can be loaded."""


class ViewStateError(InvalidInputError, RuntimeError):
    """A view was used where it is not in force."""


class ModelMemoryError(ForwardCacheError, MemoryError):
    """The device's memory is too small for this prompt, also when it runs alone."""


class NonFiniteError(ForwardCacheError, ArithmeticError):
    """The model's logits have a NaN or infinity, so that no token can be drawn from them."""


class MissingExtraError(ForwardCacheError, ImportError):
    """A package that an extra brings isn't installed; the message has the command for it.

    Attributes:
        name: The package that was to be imported.
    """


class MachineError(ForwardCacheError, RuntimeError):
    """Disk or memory gave out during a job; the message says where."""


class InterruptedRunError(ForwardCacheError):
    """Ctrl-C came during a job; the message says what was kept and how to go on."""


class WorkerError(ForwardCacheError, RuntimeError):
    """Workers of a distributed run died too often, or one failed; the message has the reason."""


class EngineStateError(ForwardCacheError, RuntimeError):
    """An engine was asked for something that it can't do now: not started, or cleaned up."""


class StaleViewError(ViewStateError):
    """A view was used after its ``with`` ended, or before it began."""


class NestedViewError(ViewStateError):
    """A view was entered or used inside another view's ``with``, or inside a running forward."""
