"""The harness's command line, which knows the model ``forwardcache`` once its class is imported."""

from lm_eval.__main__ import cli_evaluate

import forwardcache.integrations.lm_eval  # noqa: F401  (registers the model)

if __name__ == "__main__":
    cli_evaluate()
