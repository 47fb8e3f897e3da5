"""Claims: ``HFBackend.score`` gives what the views give, switching the model once a view."""

from typing import Any

import pytest

from forwardcache.errors import InvalidInputError, StaleViewError
from forwardcache.hf.model.switch import switched
from forwardcache.hf.scoring import scorer
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

PROMPTS = list(tiny.PROMPTS)


@pytest.mark.parametrize(
    ("op", "options"),
    [("next_token_dist", {"top_k": 5}), ("rolling_logprob", {}), ("logprob_of", {})],
)
def test_it_gives_what_the_views_give(op: str, options: Any, make_backend: MakeBackend) -> None:
    backend, other = make_backend(), make_backend()
    items: Any = [(prompt, " dog") for prompt in PROMPTS] if op == "logprob_of" else PROMPTS
    views = [backend.as_base(), backend.as_finetuned(), backend.as_null_adapter(7)]
    found = backend.score(items, views, op, **options)
    assert list(found) == ["base", "ft", "null_7"]
    for view in (other.as_base(), other.as_finetuned(), other.as_null_adapter(7)):
        with view as entered:
            expected = getattr(entered, f"{op}_batch")(items, **options)
        assert found[view.view_id] == expected


def test_the_model_is_switched_once_a_view_and_not_for_cached_ones(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches: list[str] = []

    def counting(model: Any, spec: Any) -> Any:
        switches.append(spec.view_id)
        return switched(model, spec)

    monkeypatch.setattr(scorer, "switched", counting)
    backend = make_backend()
    for _ in range(2):
        backend.score(PROMPTS, [backend.as_base(), backend.as_scaled_adapter(0.5)], "logprobs_at",
                      token_ids=[[1, 2]] * len(PROMPTS))  # fmt: skip
    assert switches == ["base", "scaled_0.50"]


def test_errors_stand_in_every_view(make_backend: MakeBackend) -> None:
    backend = make_backend()
    pairs = [("hello", " world"), ("hello", "")]
    views = [backend.as_base(), backend.as_finetuned()]
    found = backend.score(pairs, views, "logprob_of", on_error="return")
    assert [type(values[1]).__name__ for values in found.values()] == ["EmptyCompletionError"] * 2


def test_what_cannot_be_scored_side_by_side_is_refused(make_backend: MakeBackend) -> None:
    backend, other = make_backend(), make_backend()
    with pytest.raises(InvalidInputError, match="unknown op"):
        backend.score(PROMPTS, [backend.as_base()], "close")
    with pytest.raises(InvalidInputError, match="another backend"):
        backend.score(PROMPTS, [other.as_base()], "rolling_logprob")
    views = [backend.as_scaled_adapter(1.001), backend.as_scaled_adapter(0.996)]
    with pytest.raises(InvalidInputError, match=r"two views .* scaled_1\.00"):
        backend.score(PROMPTS, views, "rolling_logprob")
    used = backend.as_base()
    backend.score(PROMPTS, [used], "rolling_logprob")
    with pytest.raises(StaleViewError):
        backend.score(PROMPTS, [used], "rolling_logprob")
