"""The tables of the kit as cases: an engine, how it is run, and the one verdict it must get."""

from tests.conformance.cases.case import QUICK, Case, with_usage
from tests.conformance.cases.media import MEDIA_FAULTS, MEDIA_PASSES
from tests.conformance.cases.seed import SEED_FAULTS, SEED_PASSES, TIMEOUTS
from tests.conformance.cases.strict import STRICT_FAULTS, STRICT_PASSES

FAULTS = [*SEED_FAULTS, *STRICT_FAULTS, *MEDIA_FAULTS]
PASSES = [*SEED_PASSES, *STRICT_PASSES, *MEDIA_PASSES]

__all__ = [
    "FAULTS",
    "MEDIA_FAULTS",
    "MEDIA_PASSES",
    "PASSES",
    "QUICK",
    "SEED_FAULTS",
    "SEED_PASSES",
    "STRICT_FAULTS",
    "STRICT_PASSES",
    "TIMEOUTS",
    "Case",
    "with_usage",
]
