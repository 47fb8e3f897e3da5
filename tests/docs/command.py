"""``forwardcache`` as the pages' reader runs it: the demo takes the reader's prompts.

Its own three hundred are those of ``tests/test_demo.py``.
"""

import sys
from pathlib import Path

from forwardcache.__main__ import main
from forwardcache.cli import demo

if __name__ == "__main__":
    demo.PROMPTS = str(Path("prompts.jsonl").absolute())
    sys.exit(main())
