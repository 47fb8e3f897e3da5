"""One engine that keeps every rule, and one variant of it for every fault.

A variant overrides one hook. Tokens follow from the prompt, so that streams can be told apart. The
modules are by what goes wrong; tests find every engine under this name.
"""

# All of their names: tests and the command line look them up here.
# ruff: noqa: F403

from tests.conformance.engines.concurrent import *
from tests.conformance.engines.counts import *
from tests.conformance.engines.drops import *
from tests.conformance.engines.forms import *
from tests.conformance.engines.lifetime import *
from tests.conformance.engines.loop import *
from tests.conformance.engines.media import *
from tests.conformance.engines.prefixes import *
from tests.conformance.engines.stops import *
from tests.conformance.engines.toy import *
from tests.conformance.engines.waiters import *
