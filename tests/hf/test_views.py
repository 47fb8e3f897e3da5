"""Claims: each view is what its name says, is switched only to compute, and leaves no trace.

The oracle puts the model into the view with PEFT's own means, on a copy.
"""

import contextvars
import copy
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch

from forwardcache.errors import (
    AdapterError,
    ForwardCacheError,
    NestedViewError,
    StaleViewError,
    ViewParameterError,
)
from forwardcache.hf import HFBackend, HFView
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.model import switch as switch_module
from forwardcache.hf.scoring import scorer as scorer_module
from forwardcache.scoring import (
    DifferentialBackend,
    NullCalibratedBackend,
    ScalableDifferentialBackend,
    ScoringBackend,
)
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.instrumentation.together import INHERITS
from tests.tolerance import TOLERANCE

PROMPT = "the quick brown fox"
Open = Callable[[HFBackend], AbstractContextManager[HFView]]

VIEWS: dict[str, Open] = {
    "base": lambda backend: backend.as_base(),
    "ft": lambda backend: backend.as_finetuned(),
    "scaled_0.50": lambda backend: backend.as_scaled_adapter(0.5),
    "null_7": lambda backend: backend.as_null_adapter(7),
}
each_view = pytest.mark.parametrize("open_view", VIEWS.values(), ids=VIEWS.keys())


def scored(view: Any, prompt: str = PROMPT) -> Any:
    return view.next_token_dist(prompt, top_k=tiny.VOCAB)


def full(dist: Any) -> Any:
    return dist.logprobs[np.argsort(dist.token_ids)]


def oracle(model: Any, tokenizer: Any, prompt: str = PROMPT) -> Any:
    return tiny.logprobs_after(model, tokenizer(prompt)["input_ids"])[-1].numpy()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The views that the model was switched to, in order."""
    switches: list[str] = []
    switched = switch_module.switched

    def counting(model: Any, spec: Any) -> Any:
        switches.append(spec.view_id)
        return switched(model, spec)

    monkeypatch.setattr(scorer_module, "switched", counting)
    return switches


def test_backend_and_views_have_the_protocols(make_backend: MakeBackend) -> None:
    backend = make_backend()
    assert isinstance(backend, ScoringBackend)
    assert isinstance(backend, DifferentialBackend)
    assert isinstance(backend, ScalableDifferentialBackend)
    assert isinstance(backend, NullCalibratedBackend)
    assert isinstance(backend.as_base(), ScoringBackend)


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
def test_base_is_the_model_without_the_adapter(
    name: str, make_backend: MakeBackend, shared_models: Any, tokenizer: Any
) -> None:
    with make_backend(name).as_base() as base:
        found = full(scored(base))
    with shared_models[name].disable_adapter():
        truth = oracle(shared_models[name], tokenizer)
    np.testing.assert_allclose(found, truth, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
def test_finetuned_is_the_model_with_the_adapter_and_the_backend_itself(
    name: str, make_backend: MakeBackend, shared_models: Any, tokenizer: Any
) -> None:
    backend = make_backend(name)
    with backend.as_finetuned() as ft:
        found = full(scored(ft))
    np.testing.assert_allclose(found, oracle(shared_models[name], tokenizer), atol=TOLERANCE)
    hits = backend.stats.cache_hits
    assert full(scored(backend)).tolist() == found.tolist()
    assert backend.stats.cache_hits == hits + 1


@pytest.mark.parametrize("lam", [0.3, 1.7, -1.0, 1e-3])
def test_lambda_multiplies_the_present_scaling(
    lam: float, make_backend: MakeBackend, tokenizer: Any
) -> None:
    backend = make_backend(copied=True)
    for layer in tiny.lora_layers(backend.model):
        layer.scaling["default"] = 1.25
    other = copy.deepcopy(backend.model)
    for layer in tiny.lora_layers(other):
        layer.scaling["default"] = 1.25 * lam
    with backend.as_scaled_adapter(lam) as view:
        np.testing.assert_allclose(full(scored(view)), oracle(other, tokenizer), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("lam", "same"), [(0.0, VIEWS["base"]), (-0.0, VIEWS["base"]), (1.0, VIEWS["ft"])]
)
def test_lambda_zero_is_base_and_one_is_ft_in_one_forward(
    lam: float, same: Open, make_backend: MakeBackend
) -> None:
    backend = make_backend()
    with same(backend) as view:
        first = scored(view)
    with backend.as_scaled_adapter(lam) as view:
        assert scored(view) is first
    assert backend.stats.forward_passes == 1


@pytest.mark.parametrize(("init_scale", "rank_scale"), [(0.02, 1.0), (0.5, 1.0), (0.3, 4.0)])
def test_the_null_adapter_is_the_contracts_noise(
    init_scale: float, rank_scale: float, make_backend: MakeBackend, tokenizer: Any
) -> None:
    backend = make_backend()
    other = copy.deepcopy(backend.model)
    noise = tiny.null_noise(other, 7, init_scale, rank_scale)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in noise:
                parameter.copy_(noise[name])
    with backend.as_null_adapter(7, init_scale=init_scale, rank_scale=rank_scale) as null:
        np.testing.assert_allclose(full(scored(null)), oracle(other, tokenizer), atol=TOLERANCE)


def test_null_noise_takes_the_parameters_dtype(tokenizer: Any) -> None:
    model = tiny.with_lora(tiny.llama(dtype=torch.float16))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.half()
    with HFBackend(model, tokenizer).as_null_adapter(1, init_scale=0.1) as null:
        assert scored(null).is_finite
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


@each_view
def test_a_view_restores_everything_bit_for_bit(open_view: Open, make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    backend.model.train()
    backend.model.base_model.model.lm_head.eval()
    before = tiny.frozen_state(backend.model)
    with open_view(backend) as view:
        scored(view)
        view.rolling_logprob_batch(list(tiny.PROMPTS))
        assert tiny.frozen_state(backend.model) == before
    assert tiny.frozen_state(backend.model) == before


@each_view
def test_a_view_restores_everything_after_an_exception_in_the_forward(
    open_view: Open, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(copied=True)
    before = tiny.frozen_state(backend.model)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(ForwardRunner, "_call", fail)
    with open_view(backend) as view, pytest.raises(RuntimeError, match="out of luck"):
        scored(view)
    assert tiny.frozen_state(backend.model) == before
    monkeypatch.undo()
    with open_view(backend) as view:
        assert scored(view).is_finite


@each_view
def test_an_exception_in_the_body_leaves_the_view(
    open_view: Open, make_backend: MakeBackend
) -> None:
    backend = make_backend()
    with pytest.raises(KeyError), open_view(backend) as view:
        raise KeyError
    with pytest.raises(StaleViewError):
        scored(view)
    with open_view(backend) as again:
        scored(again)


def test_a_model_whose_adapter_was_left_disabled_stays_so(make_backend: MakeBackend) -> None:
    reference = make_backend()
    backend = make_backend(copied=True)
    backend.model.base_model.disable_adapter_layers()
    before = tiny.frozen_state(backend.model)
    with backend.as_finetuned() as ft, reference.as_finetuned() as enabled:
        assert scored(ft) == scored(enabled)
    assert tiny.frozen_state(backend.model) == before


def test_dropout_is_off_also_in_a_model_that_trains(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    expected = scored(backend)
    backend.model.train()
    assert scored(backend) == expected
    assert backend.model.training


def test_gradients_are_as_before(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    for open_view in VIEWS.values():
        with open_view(backend) as view:
            scored(view)
    output = backend.model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum()
    output.backward()
    assert all(
        (parameter.grad is not None) == ("lora_" in name)
        for name, parameter in backend.model.named_parameters()
    )


@each_view
def test_entering_and_a_cached_call_switch_nothing(
    open_view: Open, make_backend: MakeBackend, counted: list[str]
) -> None:
    backend = make_backend()
    prompts = list(tiny.PROMPTS)
    with open_view(backend) as view:
        assert counted == []
        first = view.next_token_dist_batch(prompts)
        assert len(counted) == 1
    with open_view(backend) as view:
        again = view.next_token_dist_batch(prompts)
        alone = view.next_token_dist(prompts[0])
    assert len(counted) == 1
    assert alone is again[0] is first[0]


def test_views_differ(make_backend: MakeBackend) -> None:
    backend = make_backend()
    values = []
    for open_view in VIEWS.values():
        with open_view(backend) as view:
            values.append(full(scored(view)).tobytes())
    assert len(set(values)) == len(VIEWS)


@each_view
def test_a_view_is_refused_before_and_after_its_with(
    open_view: Any, make_backend: MakeBackend
) -> None:
    backend = make_backend()
    view = open_view(backend)
    calls: list[Callable[[], Any]] = [
        lambda: view.next_token_dist(PROMPT),
        lambda: view.next_token_dist_batch([PROMPT]),
        lambda: view.rolling_logprob(PROMPT),
        lambda: view.rolling_logprob_batch([PROMPT]),
        lambda: view.logprob_of(PROMPT, " dog"),
        lambda: view.logprob_of_batch([(PROMPT, " dog")]),
        lambda: view.logprobs_at(PROMPT, [1]),
        lambda: view.logprobs_at_batch([PROMPT], [[1]]),
        lambda: view.token_dist_at(PROMPT, [1]),
        lambda: view.generate(PROMPT, max_new_tokens=1),
    ]
    for call in calls:
        with pytest.raises(StaleViewError, match="not entered yet"):
            call()
    with view:
        pass
    for call in calls:
        with pytest.raises(StaleViewError, match="left"):
            call()
    with pytest.raises(StaleViewError):
        view.__enter__()
    assert len(backend.instrumentation.cache) == 0


def test_a_view_inside_another_is_refused(make_backend: MakeBackend) -> None:
    backend = make_backend()
    other = HFBackend(backend.model, backend.tokenizer)
    with backend.as_base() as base:
        for inner in (backend, other):
            with pytest.raises(NestedViewError, match="view base"), inner.as_finetuned():
                pass
            with pytest.raises(NestedViewError):
                scored(inner)
            with pytest.raises(NestedViewError):
                inner.preflight_finite_check()
        scored(base)
    with backend.as_finetuned() as ft:
        scored(ft)


def test_views_of_two_models_may_be_open_together(make_backend: MakeBackend) -> None:
    first, second = make_backend("llama+lora"), make_backend("gpt2+lora")
    with first.as_base() as left, second.as_finetuned() as right:
        assert scored(left) != scored(right)


def test_a_view_can_not_be_used_inside_another_views_with_of_its_thread(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend()
    base = backend.as_base()
    thread = threading.Thread(target=base.__enter__)
    thread.start()
    thread.join()
    scored(base)
    with backend.as_finetuned(), pytest.raises(NestedViewError):
        scored(base)


def test_a_thread_begun_inside_a_view_may_use_another_unless_it_inherits_the_context(
    make_backend: MakeBackend,
) -> None:
    backend, outcomes = make_backend(), list[str]()

    def score() -> None:
        try:
            with backend.as_finetuned() as ft:
                scored(ft)
            outcomes.append("scored")
        except NestedViewError:
            outcomes.append("refused")

    with backend.as_base():
        thread = threading.Thread(target=score)
        thread.start()
        thread.join()
    assert outcomes == ["refused" if INHERITS else "scored"]


def test_threads_with_views_of_their_own_get_their_own_values(make_backend: MakeBackend) -> None:
    backend, reference = make_backend(), make_backend()
    expected = {}
    for name, open_view in VIEWS.items():
        with open_view(reference) as view:
            expected[name] = [scored(view, prompt) for prompt in tiny.PROMPTS]
    wrong: list[str] = []
    start = threading.Barrier(len(VIEWS))

    def work(name: str) -> None:
        start.wait()
        for _ in range(3):
            with VIEWS[name](backend) as view:
                found = [scored(view, prompt) for prompt in tiny.PROMPTS]
            if found != expected[name]:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in VIEWS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert backend.stats.forward_passes >= len(VIEWS) * len(tiny.PROMPTS)


def test_scoring_from_inside_a_forward_is_refused(make_backend: MakeBackend) -> None:
    backend = make_backend()

    def score(_: int) -> None:
        backend.next_token_dist("hello")

    backend.progress = score
    with pytest.raises(NestedViewError, match="inside a running forward"):
        scored(backend)
    backend.progress = None
    assert scored(backend).is_finite


@pytest.mark.parametrize("lam", [float("nan"), float("inf"), -float("inf"), "0.5", None, 1j])
def test_lambda_must_be_a_finite_number(lam: Any, make_backend: MakeBackend) -> None:
    with pytest.raises(ViewParameterError, match="lam must be a finite number"):
        make_backend().as_scaled_adapter(lam)


@pytest.mark.parametrize(
    "options",
    [
        {"rank_scale": 0.0},
        {"rank_scale": -1.0},
        {"rank_scale": float("inf")},
        {"rank_scale": float("nan")},
        {"init_scale": -0.1},
        {"init_scale": float("nan")},
        {"init_scale": float("inf")},
        {"seed": 1.5},
        {"seed": 2**64},
    ],
)
def test_null_parameters_out_of_range_are_refused(options: Any, make_backend: MakeBackend) -> None:
    with pytest.raises(ViewParameterError):
        make_backend().as_null_adapter(**({"seed": 1} | options))


def test_without_an_adapter_only_base_is_there(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    with backend.as_base() as base:
        assert scored(base).is_finite
    assert backend.stats.cache_misses == 1
    scored(backend)
    assert backend.stats.cache_hits == 1
    for open_view in list(VIEWS.values())[1:]:
        with pytest.raises(AdapterError, match="needs an adapter"), open_view(backend):
            pass


def test_view_ids_are_the_contracts(make_backend: MakeBackend) -> None:
    backend = make_backend()
    views = [
        backend.as_base(),
        backend.as_finetuned(),
        backend.as_scaled_adapter(1.25),
        backend.as_null_adapter(42),
        backend.as_null_adapter(42, rank_scale=2.0),
    ]
    assert [view.view_id for view in views] == [
        "base",
        "ft",
        "scaled_1.25",
        "null_42",
        "null_42_rank2.00",
    ]
    assert all(issubclass(kind, ForwardCacheError) for kind in (StaleViewError, NestedViewError))


def test_a_context_copied_inside_a_view_scores_once_the_view_is_left(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend()
    with backend.as_finetuned():
        context = contextvars.copy_context()
        with pytest.raises(NestedViewError):
            context.run(lambda: backend.next_token_dist("hello world"))
    assert context.run(lambda: backend.next_token_dist("hello world")) == backend.next_token_dist(
        "hello world"
    )
