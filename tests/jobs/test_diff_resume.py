"""Going on with an interrupted comparison.

Claims: wherever a run ends, between two writes or amid one, the run that goes on with it publishes
the same bytes and finds the same figures as one that didn't stop, and compares nothing again that
was kept whole; rows read back are the arrays that they are of, bit for bit, infinities and NaN too,
and a row with a null of which nothing was noted isn't believed; what is kept belongs to one job.

Not here: what the command says (``cli/test_diff_sweep.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forwardcache
from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs.diff.begun import begun
from forwardcache.jobs.diff.detect import LEAST, Detection
from forwardcache.jobs.diff.kept import Kept
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.diff.plan import DiffPlan, make_plan
from forwardcache.jobs.diff.resume import differences_of, note_beyond_json
from forwardcache.jobs.diff.rows import ARRAYS, rows_of
from forwardcache.jobs.diff.run import run_diff
from forwardcache.jobs.options import ModelOptions, NamedAdapter
from forwardcache.jobs.outfile import part_of
from forwardcache.jobs.prompts import TEXTS, Prompt, read_prompts
from forwardcache.jobs.results import PartFile, measured_of
from forwardcache.jobs.rows import encoded
from forwardcache.jobs.session import Session, load
from forwardcache.jobs.views import View
from forwardcache.scoring import PositionDifferences

DEMO = Path(forwardcache.__file__).parent / "demo"
JOB = {"weights": "these"}


@pytest.fixture(scope="module", autouse=True)
def _a_scale_is_found_at_once() -> Iterator[None]:
    """How it is found: ``test_detect.py``. It takes more texts, and most of a run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forwardcache.jobs.diff.run.FEWEST_TEXTS", 1)
        patch.setattr(
            "forwardcache.jobs.diff.run.visible_from", lambda *_, **__: Detection(0.07, LEAST)
        )
        yield


class Silent:
    def begin(self, step: str) -> None:
        pass


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    adapter = NamedAdapter(None, str(DEMO / "adapter"))
    loaded = load(ModelOptions(str(DEMO / "model"), (adapter,), dtype="float32"))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = (DEMO / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(lines[:6]), "utf-8")
    return path


@pytest.fixture(scope="module")
def options(texts: Path) -> DiffOptions:
    loading = ModelOptions(str(DEMO / "model"))
    return DiffOptions(loading=loading, texts=str(texts), nulls=2, detect=True, group_by="style")


@pytest.fixture(scope="module")
def plan(session: Session, options: DiffOptions) -> DiffPlan:
    source = read_prompts(options.texts, limit=None, on_error="fail", words=TEXTS)
    views = (View("ft"), View("scaled", lam=0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forwardcache.jobs.diff.plan.CHUNK_TOKENS", 60)
        return make_plan(
            session, source, views, View("base"), in_windows=False, group_by="style", skip_first=1
        )


Found = tuple[bytes, Any]


def ran(
    session: Session, plan: DiffPlan, options: DiffOptions, out: Path, *, resume: bool = False
) -> Found:
    """The bytes that a run publishes, and what it finds."""
    with begun(plan, out, JOB, force=False, resume=resume) as known:
        result = run_diff(session, plan, options, steps=Silent(), begun=known)
        assert known.part is not None
        known.part.publish()
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return out.read_bytes(), result.as_json()


@pytest.fixture(scope="module")
def whole(
    session: Session,
    plan: DiffPlan,
    options: DiffOptions,
    tmp_path_factory: pytest.TempPathFactory,
) -> Found:
    return ran(session, plan, options, tmp_path_factory.mktemp("whole") / "rows.jsonl")


class _Ends:
    """Interrupts a run behind its n-th write, of rows or of what is kept beside them."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        for owner, name in ((PartFile, "write"), (Kept, "note")):
            patch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, write: Any) -> Any:
        def writing(*arguments: Any) -> None:
            write(*arguments)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

        return writing


# The floor; six texts; the nulls of two scales; the smallest visible scale.
@pytest.mark.parametrize("after", [1, 5, 10])
def test_a_run_that_goes_on_ends_as_one_that_did_not_stop(  # noqa: PLR0917 - fixtures
    after: int, session: Session, plan: DiffPlan, options: DiffOptions, whole: Found, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        _Ends(patch, after)
        with pytest.raises(KeyboardInterrupt):
            ran(session, plan, options, out)
    if after == 5:
        # Killed amid a write of each.
        for path in (part_of(out), measured_of(out)):
            with path.open("ab") as file:
                file.write(b'{"id": 7, "vie')
    read: list[int] = []
    session.backend.progress = read.append
    try:
        assert ran(session, plan, options, out, resume=True) == whole
    finally:
        session.backend.progress = None
    if after == 10:
        assert read == []


def test_a_part_without_what_was_kept_beside_it_is_gone_on_with(
    session: Session, plan: DiffPlan, options: DiffOptions, whole: Found, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        _Ends(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            ran(session, plan, options, out)
    measured_of(out).unlink()
    assert ran(session, plan, options, out, resume=True) == whole


def test_what_is_kept_belongs_to_one_job(plan: DiffPlan, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with begun(plan, out, JOB, force=False, resume=False) as known:
        known.kept.note("floor", "", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "rows.jsonl.part", "rows.jsonl.part.job", "rows.jsonl.part.measured",
    ]  # fmt: skip
    with (
        pytest.raises(InvalidInputError, match="belongs to another job"),
        begun(plan, out, {"weights": "others"}, force=False, resume=True),
    ):
        pass
    with (
        pytest.raises(InvalidInputError, match="--resume goes on with it"),
        begun(plan, out, JOB, force=False, resume=False),
    ):
        pass
    with begun(plan, out, JOB, force=False, resume=True) as known:
        assert known.kept.find("floor") == 1
    with begun(plan, out, JOB, force=True, resume=False) as known:
        assert known.kept.find("floor") is None
    assert list(tmp_path.iterdir()) == []


SPECIAL = [np.inf, -np.inf, np.nan, -0.0, 5e-324, 1e-45, 1.5e300, 2.0**-126, 0.1, 1 / 3]


def drawn(size: int, *, special: bool) -> PositionDifferences:
    """Arrays of any bits."""
    chance = np.random.default_rng(size)
    found: dict[str, Any] = {}
    for name, kind in ARRAYS.items():
        length = size + (name == "token_ids")
        if kind in {"float64[]", "float32[]"}:
            bits: Any = np.uint64 if kind == "float64[]" else np.uint32
            drawn = chance.integers(0, np.iinfo(bits).max, length, dtype=bits)
            values = drawn.view(np.float64 if kind == "float64[]" else np.float32)
            values = np.where(np.isfinite(values), values, 1.0).astype(values.dtype)
            if special:
                with np.errstate(over="ignore"):
                    values[: len(SPECIAL)] = np.array(SPECIAL).astype(values.dtype)
            found[name] = values
        elif kind == "bool[]":
            found[name] = chance.random(length) < 0.5
        else:
            found[name] = chance.integers(0, 2**40, length)
    return PositionDifferences(**found)


@pytest.mark.parametrize("special", [False, True])
def test_a_row_reads_back_as_what_it_is_of(special: bool, tmp_path: Path) -> None:
    one = drawn(3000, special=special)
    prompt, path = Prompt(7, "text"), tmp_path / "measured"
    rows = rows_of(prompt, "base", {"ft:a": one}, ["t"] * 3001)
    kept = Kept(path)
    note_beyond_json(kept, rows, [one])
    kept.close()
    [row] = [json.loads(line) for line in encoded(rows).splitlines()]
    again = differences_of(row, Kept(path))
    assert again is not None
    for name in ARRAYS:
        known, found = getattr(one, name), getattr(again, name)
        assert known.dtype == found.dtype
        # NaN has many bits, and one meaning.
        is_number = ~np.isnan(known) if known.dtype.kind == "f" else np.ones(len(known), np.bool_)
        assert known[is_number].tobytes() == found[is_number].tobytes(), name
        assert is_number.all() or np.isnan(found[~is_number]).all()
    unknown = differences_of(row, Kept())
    assert (unknown is None) == special


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "measured")
    kept.close()
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    kept = Kept()
    kept._path, kept._file = full, full.open("ab")
    with pytest.raises(MachineError, match="--resume goes on"):
        kept.note("floor", "", 1)
