"""What ``diff`` refuses of other models and chains before it loads a model."""

from __future__ import annotations

from collections.abc import Sequence

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.other_models import check_other_folders
from forwardcache.jobs.views import View


def check_others(options: DiffOptions, views: Sequence[View]) -> None:
    """Refuse other models that aren't there, and a chain of one stage.

    Args:
        options: What was asked for.
        views: Those of the model itself.

    Raises:
        InvalidInputError: naming the option.
    """
    check_other_folders(options.others, allow_download=options.loading.allow_download)
    stages = sum(not view.is_null for view in views) + len(options.others)
    if options.chain and stages < 2:
        raise InvalidInputError(
            "--chain holds each stage against the one before it, and there is "
            f"{'one' if stages else 'none'} behind {options.reference}: give --adapter or --other"
        )
