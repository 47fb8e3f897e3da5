"""A process that examines cases: a name a line comes in, a verdict a line goes out.

What the libraries print goes to standard error, so that the lines stay whole.
"""

from __future__ import annotations

import json
import os
import sys
import warnings


def main() -> None:
    """Answers until there are no more names."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    from tools.matrix.examine import prepared, verdict_on

    prepared()
    for line in sys.stdin:
        answers.write(json.dumps(verdict_on(line.strip()).as_data()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
