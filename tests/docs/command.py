"""``forwardcache`` as the pages' reader runs it: the demo takes the reader's prompts.

Its own three hundred are those of ``tests/test_demo.py``.
"""

import sys
from pathlib import Path

from forwardcache.__main__ import main
from forwardcache.cli import demo
from tests.patient_ray import make_patient

if __name__ == "__main__":
    demo.PROMPTS = str(Path("prompts.jsonl").absolute())
    if "--ray" in sys.argv:
        make_patient()
    sys.exit(main())
