"""Ray with the time that a busy machine takes to begin its processes, for tests that begin them.

Of its own a cluster that isn't there within half a minute is given up, and a node's first process
ends if the one of the dashboard hasn't imported all that it needs within 15 seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.patience import HANG_S


def make_patient(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Clusters that this process begins are waited for, and have no dashboard to import.

    Args:
        replace: Puts something in the place of what a module has under a name.
    """
    from ray._private import services, utils

    get_node: Any = services.get_node

    def in_the_end(*place: Any) -> Any:
        """What is known of a node, as soon as it is there."""
        give_up = time.monotonic() + HANG_S
        while True:
            try:
                return get_node(*place)
            except RuntimeError:
                if time.monotonic() > give_up or not _has_raylet():
                    raise

    replace(services, "get_node", in_the_end)
    replace(utils, "get_dashboard_dependency_error", lambda: ImportError("it is not wanted"))


def _has_raylet() -> bool:
    """Whether a node's first process is there, where the system tells."""
    told = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        # Others come and go.
        with suppress(OSError):
            told.append(path.read_text().rpartition(")"))
    # A process's name, and behind its state its parent.
    mine = [name for name, _, rest in told if rest.split()[1] == str(os.getpid())]
    return not told or any(name.endswith("(raylet") for name in mine)
