"""What is proved: each part with its property, its numbers and the commands that do some of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tools.prove.sources import conftests_of, files_of

CORE: Final = ("rust", "build.rs", "Cargo.toml", "Cargo.lock")
# What its own tests and fuzzer are built of: all but the room of pyo3, which is a feature.
CRATE: Final = (*CORE, ":(exclude)rust/python")
# The fuzzer of the journal makes no cache.
NO_CACHE: Final = ":(exclude)rust/cache"
INSTRUMENTATION: Final = (*CORE, "python/forwardcache/instrumentation.py")
STORE: Final = ("python/forwardcache/store", "python/forwardcache/scoring.py")


@dataclass(frozen=True, slots=True)
class Way:
    """A command that does a chunk of a part, some minutes of it at most.

    In arguments and values ``{seed}`` becomes the chunk's seed, ``{python}`` this interpreter.
    ``sources`` are those that it has beside its part's.
    """

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A property, and how much of it is shown.

    Attributes:
        name: As it is asked for.
        claim: What a part that passes has shown.
        unit: What is counted, as the commands report it.
        tested: The number that ``make test`` is to reach.
        goal: The number that ``make prove`` is to reach; None where each way is whole by itself
            and has to pass once.
        ways: Commands, taken in turn.
        sources: Paths on which the outcome depends: a chunk of a commit at which they were
            different does not count.
        words: ``tested`` and ``goal`` as they are shown, where the number alone says too little.
    """

    name: str
    claim: str
    unit: str
    tested: int
    goal: int | None
    ways: tuple[Way, ...]
    sources: tuple[str, ...]
    words: tuple[str, str] = ("", "")


def pytest(name: str, *tests: str, sources: tuple[str, ...] = (), **knobs: int) -> Way:
    """Some tests, with what ``tests/proof.py`` reads; the files they are made of are sources."""
    options = ("-q", "-x", "--timeout=3000", "-p", "no:cacheprovider", "--hypothesis-seed={seed}")
    files = [test.partition("::")[0] for test in tests]
    variables = {f"FORWARDCACHE_{knob}": str(value) for knob, value in knobs.items()}
    return Way(
        name,
        ("{python}", "-m", "pytest", *options, *tests),
        {"FORWARDCACHE_SEED": "{seed}", **variables},
        (*sources, *files_of(*files, *conftests_of(*files))),
    )


def cargo(name: str, tests: str, sources: tuple[str, ...] = (), **variables: str) -> Way:
    """Some tests of the core, with what ``rust/proof.rs`` reads."""
    command = ("cargo", "test", "--quiet", "--locked", "--lib", tests, "--", "--nocapture")
    return Way(name, command, variables, sources)


def checker(name: str, cfg: str, tests: str, **variables: str) -> Way:
    """The same, under a model checker."""
    command = ("cargo", "test", "--quiet", "--locked", "--release", "--lib", tests)
    build = {
        "RUSTFLAGS": f"--cfg {cfg}",
        "CARGO_TARGET_DIR": f"target/{cfg}",
        # As in the Makefile: what is not shipped needs no optimization across crates.
        "CARGO_PROFILE_RELEASE_LTO": "off",
        "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    }
    return Way(name, (*command, "--", "--nocapture"), {**build, **variables})


def fuzz(target: str, claim: str, *sources: str, tested: str = "corpus") -> Part:
    """Two hours of a processor for one target of ``tests/fuzz``."""
    seconds = "120"
    command = ("{python}", "-m", "tests.fuzz", target, "--seconds", seconds, "--seed", "{seed}")
    return Part(
        name=f"fuzz-{target}",
        claim=claim,
        unit="CPU seconds",
        tested=0,
        goal=7_200,
        ways=(Way(target, command),),
        sources=(*sources, "tests/fuzz", *files_of("tests/fuzz/__main__.py")),
        words=(tested, "7,200 (2 hours)"),
    )


OPERATIONS = Part(
    name="operations",
    claim="Cache, calls and flights do what their models do, operation by operation.",
    unit="operations",
    tested=100_000,
    goal=10_000_000,
    ways=(
        cargo(
            "proptest: the core beside a list",
            "any_sequence_of_calls",
            PROPTEST_CASES="20000",
            PROPTEST_RNG_SEED="{seed}",
        ),
        pytest(
            "Hypothesis: four state machines beside their models",
            "tests/instrumentation/test_machines.py::TestCacheMachine",
            "tests/instrumentation/test_machines.py::TestCallMachine",
            "tests/instrumentation/test_sequential.py",
            "tests/instrumentation/test_flight_machine.py",
            EXAMPLES=3,
        ),
        pytest(
            "differential: the package beside plain Python",
            "tests/instrumentation/test_machines.py::test_a_long_run_is_that_of_the_model",
            OPERATIONS=50_000,
        ),
    ),
    sources=INSTRUMENTATION,
)

LOOM = Part(
    name="loom",
    claim="No interleaving of the modelled races of cache, flights and trace breaks them.",
    unit="models at 3 preemptions",
    tested=0,
    goal=None,
    ways=(checker("loom", "loom", "models", LOOM_MAX_PREEMPTIONS="3"),),
    sources=CRATE,
    words=("all at 2 preemptions", "all at 3"),
)

SHUTTLE = Part(
    name="shuttle",
    claim="No schedule that was tried breaks one of the five scenarios of four threads.",
    unit="schedules",
    tested=10_000,
    goal=5_000_000,
    ways=(
        checker(
            "shuttle",
            "shuttle",
            "cache::scenarios",
            SCHEDULES="20000",
            SHUTTLE_RANDOM_SEED="{seed}",
        ),
    ),
    sources=CRATE,
    words=("", "5 x 1,000,000"),
)

HISTORIES = Part(
    name="histories",
    claim="Each recorded history of four threads is explained by one order of its calls.",
    unit="histories",
    tested=2_000,
    goal=100_000,
    ways=(cargo("recorded histories", "histories", HISTORIES="2000", SEED="{seed}00000"),),
    sources=CRATE,
)

EVENTS = Part(
    name="events",
    claim="Of the numbered events of eight threads none is lost, doubled or torn.",
    unit="trace events",
    tested=1_000_000,
    goal=50_000_000,
    ways=(
        pytest(
            "eight threads",
            "tests/trace/test_threads.py::test_eight_threads_lose_nothing",
            TRACE_EVENTS=500_000,
        ),
    ),
    sources=INSTRUMENTATION,
)

KILLS = Part(
    name="kills",
    claim="SIGKILL at any moment of up to four processes costs the trace no event, and the store "
    "no value, whose call had returned.",
    unit="kills",
    tested=100,
    goal=10_000,
    ways=(
        pytest("trace", "tests/trace/test_kill.py", sources=INSTRUMENTATION, KILLS=250),
        pytest("store", "tests/store/test_kill.py", sources=STORE, KILLS=250),
    ),
    sources=(),
)

FAULTS = Part(
    name="faults",
    claim="Whichever call of the system fails, and however: nothing is lost uncounted, nothing "
    "wrong is read.",
    unit="fault points",
    tested=300,
    goal=None,
    ways=(
        pytest(
            "trace of 1,000 events",
            "tests/trace/test_faults.py",
            sources=INSTRUMENTATION,
            FAULT_STEPS=500,
        ),
        *(
            pytest(
                f"store of 200 puts, every tenth call from the {first}.",
                "tests/store/test_faults.py",
                sources=STORE,
                FAULT_PUTS=200,
                FAULT_EVERY=10,
                FAULT_FIRST=first,
            )
            for first in range(1, 11)
        ),
    ),
    sources=(),
    words=("", "every one of 1,000 events and of 200 puts"),
)

DAMAGE = Part(
    name="damage",
    claim="Damaged bytes of a store or a journal are a miss, and never a wrong value or an event "
    "that nobody wrote.",
    unit="damaged copies",
    tested=2_000,
    goal=100_000,
    ways=(
        pytest(
            "store",
            "tests/store/test_sqlite.py::test_flipped_bits_and_cut_files_are_misses_only",
            sources=STORE,
            DAMAGED=2_000,
        ),
        cargo(
            "journal",
            "damage_gives_no_event",
            CRATE,
            PROPTEST_CASES="10000",
            PROPTEST_RNG_SEED="{seed}",
        ),
    ),
    sources=(),
)

EDITS = Part(
    name="edits",
    claim="After a change of one number of the weights nothing older is served.",
    unit="edits",
    tested=50,
    goal=1_000,
    ways=(pytest("one number", "tests/hf/test_edits.py", EDITS=50),),
    sources=(
        *CORE,
        "python/forwardcache/hf",
        "python/forwardcache/instrumentation.py",
        "python/forwardcache/scoring.py",
    ),
)

FORKS = Part(
    name="forks",
    claim="A child forked while other threads trace has a run of its own, repeats nothing and "
    "never hangs.",
    unit="forks",
    tested=20,
    goal=1_000,
    ways=(
        pytest(
            "while three threads trace",
            "tests/trace/test_forks.py::test_forks_while_other_threads_trace",
            FORKS=20,
        ),
    ),
    sources=INSTRUMENTATION,
)

SOAK = Part(
    name="soak",
    claim="Eight threads that call for long get right values in memory that drifts less than 1 %.",
    unit="calls",
    tested=1_000_000,
    goal=100_000_000,
    ways=(pytest("eight threads", "tests/instrumentation/test_soak.py", CALLS=10_000_000),),
    sources=INSTRUMENTATION,
    words=("", "100,000,000, drift < 1 %"),
)

PARTS: Final = (
    OPERATIONS,
    LOOM,
    SHUTTLE,
    HISTORIES,
    EVENTS,
    KILLS,
    FAULTS,
    DAMAGE,
    EDITS,
    FORKS,
    fuzz(
        "journal",
        "Any bytes as a journal: no panic, no event that nobody wrote.",
        *CRATE,
        NO_CACHE,
        "fuzz",
        tested="proptest",
    ),
    fuzz(
        "reader",
        "Any bytes as a trace: the events that are in them and no others, and no exception.",
        "Cargo.lock",
        # These two use nothing else of the core.
        "rust/observe",
        "rust/python/observe.rs",
        "python/forwardcache/observe",
    ),
    fuzz("store", "Any bytes as a stored value: a value that was sealed, or none.", *STORE),
    fuzz(
        "judge",
        "Any stream of chunks: a verdict, the same again, and the one of the rules as written.",
        "python/forwardcache/conformance",
        # The kit for scoring backends, which judges no stream.
        ":(exclude)python/forwardcache/conformance/backend",
    ),
    SOAK,
)
