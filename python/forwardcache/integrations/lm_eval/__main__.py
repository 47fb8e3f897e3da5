"""The harness's command line, which knows the model ``forwardcache`` once its class is imported."""

import sys

from lm_eval.__main__ import cli_evaluate

import forwardcache.integrations.lm_eval  # noqa: F401  (registers the model)
from forwardcache.errors import ForwardCacheError


def main() -> int:
    """Run the harness; 2 after one line where this package refuses what it was given."""
    try:
        cli_evaluate()
    except ForwardCacheError as error:
        print(f"forwardcache: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
