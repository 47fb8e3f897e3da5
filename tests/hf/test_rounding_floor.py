"""Claims: a rerun moves each element of every block's output, and of what the head is given, by -1,
0 or +1 unit in the last place with probability 1/12, 10/12, 1/12, in every dtype, near 0 and at
powers of two, never to infinity; what is drawn follows from seed and text alone; the floor tells a
tiny change from rounding exactly where the dtype allows it; families of every structure have a
floor; nothing stays on the model, also after an exception, and what was cached is still there.

Not here: the floor's statistics (``statistics/test_floor.py``), and a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from forwardcache.errors import (
    AdapterError,
    ContextLengthError,
    InvalidInputError,
    NestedViewError,
    UnsupportedModelError,
)
from forwardcache.hf import HFBackend
from forwardcache.hf.batch.differences import position_differences
from forwardcache.hf.batch.rounding import (
    blocks_of,
    drawn_steps,
    moved_by_ulps,
    rounded_anew,
    salts_of,
)
from forwardcache.hf.scoring import comparison
from forwardcache.statistics import Positions, against_floor
from tests.hf import adapter_cases, demo_models, stream_families, tiny, twists
from tests.hf.conftest import MakeBackend
from tests.hf.test_compare import go
from tests.tolerance import TOLERANCE

TEXTS = list(tiny.PROMPTS)
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def ordered(states: torch.Tensor) -> Any:
    """The number of each value in the order of all that its dtype has: int64."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[states.dtype.itemsize]
    bits = states.view(kind).to(torch.int64).numpy()
    return np.where(bits < 0, -(bits - np.iinfo(f"int{8 * states.dtype.itemsize}").min), bits)


def distance(states: torch.Tensor, moved: torch.Tensor) -> Any:
    """Units in the last place that lie between."""
    return ordered(moved) - ordered(states)


# Units


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_value_moves_by_one_unit_of_its_own(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * info.eps
    values = [1.0, 2.0, 0.5, 1.0 + info.eps, 3.14, 1e-3, 1000.0, info.smallest_normal, smallest]
    values += [info.max, 0.0]
    states = torch.tensor([*values, *(-each for each in values)], dtype=torch.float64).to(dtype)
    up, down = (
        moved_by_ulps(states, torch.full(states.shape, step, dtype=torch.int16), dtype)
        for step in (1, -1)
    )
    steps = np.sign(states.double().numpy())
    steps[states == 0] = 1
    # Nothing lies beyond the largest number.
    largest = (states.abs() == info.max).numpy()
    assert distance(states, up).tolist() == np.where(largest, 0, steps).tolist()
    assert distance(states, down).tolist() == (-steps).tolist()
    still = moved_by_ulps(states, torch.zeros(states.shape, dtype=torch.int16), dtype)
    assert torch.equal(still, states)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_as_it_is(dtype: torch.dtype) -> None:
    states = torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=dtype)
    for step in (-1, 0, 1):
        moved = moved_by_ulps(states, torch.full((3,), step, dtype=torch.int16), dtype)
        assert moved[:2].tolist() == [torch.inf, -torch.inf]
        assert moved[2].isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_in_a_finer_dtype_move_by_units_of_the_models(dtype: torch.dtype) -> None:
    exact = torch.tensor([1.0, 1.5, 3.0, -1000.0, 0.0, 1e30, torch.inf])
    moved = moved_by_ulps(exact, torch.ones(7, dtype=torch.int16), dtype)
    eps = torch.finfo(dtype).eps
    expected = [1 + eps, 1.5 + eps, 3 + 2 * eps, -1000 + 512 * eps, 0.0]
    assert moved[:5].tolist() == expected
    assert moved[5] > exact[5]
    assert moved[6] == torch.inf


def test_steps_have_their_shares_and_depend_on_nothing_else() -> None:
    salts = salts_of(torch.randint(320, (8, 64), generator=torch.manual_seed(1)), None)
    keys = [torch.from_numpy(np.random.default_rng(seed).integers(-(2**31), 2**31, 256, np.int32))
            for seed in (1, 2)]  # fmt: skip
    drawn = [drawn_steps(salts, each).numpy() for each in keys]
    for one in drawn:
        counts = [int((one == step).sum()) for step in (-1, 0, 1)]
        assert stats.chisquare(counts, one.size * np.array([1, 10, 1]) / 12).pvalue > 1e-4
        # In each place of the width, and at each position.
        for axes in ((0, 1), (2,)):
            means = (one != 0).mean(axes)
            error = np.sqrt(2 / 12 * 10 / 12 * means.size / one.size)
            assert abs(means - 2 / 12).max() < 5 * error
    for one, other in [
        (drawn[0], drawn[1]),
        (drawn[0][:, 1:], drawn[0][:, :-1]),
        (drawn[0][1:], drawn[0][:-1]),
        (drawn[0][..., 1:], drawn[0][..., :-1]),
    ]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)


def test_salts_follow_from_the_tokens_of_a_row_up_to_each() -> None:
    row, other = [3, 1, 4, 1, 5], [3, 1, 9]
    [alone] = salts_of(torch.tensor([row]), None)
    padded = salts_of(torch.tensor([[*row, 5, 5], [*other, 9, 9, 9, 9]]), None)
    assert padded[0, :5].tolist() == alone.tolist()
    places = torch.tensor([[*range(3), *range(5)]])
    [packed] = salts_of(torch.tensor([[*other, *row]]), places)
    assert packed[3:].tolist() == alone.tolist()
    assert packed[:3].tolist() == padded[1, :3].tolist()
    assert padded[0, :2].tolist() == padded[1, :2].tolist()
    assert len({*padded[0].tolist(), *padded[1].tolist()}) == 12


# What moves


@contextmanager
def watched(modules: dict[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """By name: what each module gave, before anything else saw it."""
    seen: dict[str, list[Any]] = {name: [] for name in modules}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out))
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_blocks_and_the_final_norm_move_by_one_unit(dtype: torch.dtype) -> None:
    model = tiny.llama(dtype=dtype)
    ids = torch.randint(tiny.VOCAB, (4, 60), generator=torch.manual_seed(2))
    # In front of the noise: what modules give; behind it: what they are given.
    given: list[torch.Tensor] = []
    last = model.model.layers[1].register_forward_pre_hook(
        lambda _m, inputs: given.append(inputs[0])
    )
    norm = model.model.norm.register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0]))
    head = model.lm_head.register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0]))
    modules = {"0": model.model.layers[0], "1": model.model.layers[1], "norm": model.model.norm}
    try:
        with (
            watched(modules) as gave,
            torch.inference_mode(),
            rounded_anew(model, model, model.model, dtype, (0, 0)),
        ):
            model(input_ids=ids, use_cache=False)
    finally:
        for handle in (last, norm, head):
            handle.remove()
    for name, moved in zip(modules, given, strict=True):
        steps = distance(gave[name][0], moved)
        assert set(np.unique(steps)) == {-1, 0, 1}
        counts = [int((steps == step).sum()) for step in (-1, 0, 1)]
        assert stats.chisquare(counts, steps.size * np.array([1, 10, 1]) / 12).pvalue > 1e-4


def test_a_body_without_a_norm_at_its_end_moves_once() -> None:
    model = stream_families.family("openai-gpt")
    given: list[torch.Tensor] = []
    handle = model.lm_head.register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0]))
    try:
        with (
            watched({"last": model.transformer.h[-1]}) as gave,
            torch.inference_mode(),
            rounded_anew(model, model, model.transformer, torch.float32, (0, 0)),
        ):
            model(input_ids=torch.arange(50)[None])
    finally:
        handle.remove()
    [output] = gave["last"]
    assert (
        abs(distance(output[0] if isinstance(output, tuple | list) else output, given[0])).max()
        == 1
    )


def test_experts_are_no_blocks() -> None:
    model = adapter_cases.mixtral()
    assert blocks_of(model) == list(model.model.layers)
    inside = nn.ModuleList([nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)])])
    assert blocks_of(nn.ModuleDict({"stages": inside})) == []
    stages = nn.ModuleList([nn.ModuleList([tiny.llama(), tiny.llama()]), tiny.llama()])
    assert blocks_of(nn.ModuleDict({"stages": stages})) == [*stages[0].children(), stages[1]]


# What is found


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return demo_models.prompts(48)


@pytest.fixture(scope="module")
def trained_truth(prompts: list[str]) -> float:
    """Mean KL of the adapter of one step, in nats, as float64 has it."""
    backend = HFBackend(
        demo_models.adapted(torch.float64, prompts[:8], steps=1), demo_models.tokenizer()
    )
    return float(Positions.of(backend.compare(prompts, ["ft"])["ft"]).kl.mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_one_step_of_training_is_told_from_rounding_in_float32_alone(
    prompts: list[str], trained_truth: float, dtype: torch.dtype
) -> None:
    model = demo_models.adapted(dtype, prompts[:8], steps=1)
    backend = HFBackend(model, demo_models.tokenizer())
    floor = backend.rounding_floor(prompts)
    found = against_floor(Positions.of(backend.compare(prompts, ["ft"])["ft"]), floor)
    expected = {torch.bfloat16: 4.4e-4, torch.float16: 6.9e-6, torch.float32: 1.1e-12}[dtype]
    assert expected / 2 < floor.mean < 2 * expected
    assert found.distinguishable is (dtype == torch.float32)
    if dtype == torch.float32:
        assert found.view_mean == pytest.approx(trained_truth, rel=0.2)
    else:
        assert found.view_mean < floor.mean


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_adapter_that_does_nothing_reads_zero_and_a_real_one_is_seen(
    prompts: list[str], dtype: torch.dtype
) -> None:
    none = HFBackend(demo_models.adapted(dtype, [], steps=0), demo_models.tokenizer())
    for value in none.compare(prompts, ["ft"])["ft"]:
        assert not value.kl.any()
    backend = demo_models.shipped(str(dtype).removeprefix("torch."))
    floor = backend.rounding_floor(prompts)
    found = against_floor(Positions.of(backend.compare(prompts, ["ft"])["ft"]), floor)
    assert found.distinguishable
    assert found.view_mean > 100 * floor.mean


def test_a_floor_is_the_same_for_a_seed_and_in_any_batch(make_backend: MakeBackend) -> None:
    backend = make_backend()
    whole = backend.rounding_floor(TEXTS)
    assert backend.rounding_floor(TEXTS) == whole
    assert backend.rounding_floor(TEXTS, seed=1) != whole
    assert backend.rounding_floor(TEXTS, reruns=2) != whole
    for text in TEXTS:
        [(name, (mean, count))] = backend.rounding_floor([text]).kl_of.items()
        # The same noise; what a batch does to the arithmetic is of the size of the floor itself.
        assert count == whole.kl_of[name][1]
        assert mean == pytest.approx(whole.kl_of[name][0], rel=1.0, abs=1e-12)


@pytest.mark.parametrize("batches", ["packed", "padded", "equal_lengths", "single"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_floor_is_alike_in_every_way(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, batches: Any, alone: bool
) -> None:
    backend = make_backend()
    expected = backend.rounding_floor(TEXTS)
    go(monkeypatch, backend, batches=batches, runs_head_alone=alone)
    found = backend.rounding_floor(TEXTS)
    assert found.kl_of.keys() == expected.kl_of.keys()
    assert found.mean == pytest.approx(expected.mean, rel=0.5)


@pytest.mark.parametrize("reference", ["base", "ft", "scaled:0.5", "null:7"])
def test_every_view_has_a_floor_of_its_own(make_backend: MakeBackend, reference: str) -> None:
    backend = make_backend()
    floor = backend.rounding_floor(TEXTS, reference=reference)
    assert 0.0 < floor.mean < TOLERANCE
    assert floor.mean <= floor.p99
    assert floor.same_top > 0.9
    with backend.provenance() as computed:
        backend.rounding_floor(TEXTS, reference=reference, reruns=2)
    names = [each.view_id for each in computed]
    assert len(set(names)) == 2
    assert all(name.endswith(("_rerun_0", "_rerun_1")) for name in names)


def of(model_type: str, **settings: Any) -> Callable[[], Any]:
    def made() -> Any:
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, vocab_size=tiny.VOCAB, **settings)
        return tiny.sharpened(AutoModelForCausalLM.from_config(config), 6.0).eval()

    return made


FAMILIES: dict[str, Callable[[], Any]] = {
    name: lambda name=name: stream_families.family(name)  # type: ignore[misc]
    for name in ("llama", "gemma3_text", "mllama", "qwen3_next", "rwkv", "bart", "roberta", "blt",
                 "openai-gpt", "bloom")
}  # fmt: skip
FAMILIES |= {
    "gpt2": tiny.gpt2,
    "mixtral": adapter_cases.mixtral,
    "xlm": of("xlm", emb_dim=32, n_layers=2, n_heads=2, causal=True),
    "head not alone": lambda: twists.made(twists.CutsItsStates),
    "a block of another kind": lambda: twists.made(twists.LooksBack),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_every_structure_have_a_floor(name: str, tokenizer: Any) -> None:
    backend = HFBackend(FAMILIES[name](), tokenizer)
    # BLT reads bytes, and no words.
    texts = ["Zzz", "XyzXyz", "QqqQ"] if name == "blt" else TEXTS[3:6]
    floor = backend.rounding_floor(texts)
    assert 0.0 < floor.mean < 1e-6, floor


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_residual_stream_in_float32_rounds_as_the_model_does(
    tokenizer: Any, dtype: torch.dtype
) -> None:
    model = of("mamba", hidden_size=32, num_hidden_layers=2, state_size=8)().to(dtype)
    backend = HFBackend(model, tokenizer)
    given: list[torch.Tensor] = []
    first, second = model.backbone.layers
    handle = second.register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0]))
    try:
        with watched({"first": first}) as gave:
            floor = backend.rounding_floor(TEXTS[3:6])
    finally:
        handle.remove()
    assert floor.mean > torch.finfo(dtype).eps ** 2 / 100
    for before, after in zip(gave["first"], given, strict=True):
        states = before[0] if isinstance(before, tuple | list) else before
        assert states.dtype == torch.float32
        moved = (states != after) & (states != 0)
        assert 0.1 < moved.float().mean() < 0.25
        share = ((after - states) / states)[moved].abs() / torch.finfo(dtype).eps
        # A unit is between half and all of the dtype's precision, relative to the number.
        assert 0.45 < share.min() <= share.max() < 1.1


def test_a_model_whose_blocks_are_in_no_list_is_refused(tokenizer: Any) -> None:
    model = tiny.llama()
    first, second = model.model.layers
    model.model.layers = OneAfterTheOther(first, second)
    with pytest.raises(UnsupportedModelError, match="none of the 0 blocks"):
        HFBackend(model, tokenizer).rounding_floor(TEXTS)


class OneAfterTheOther(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def __getitem__(self, at: slice) -> list[nn.Module]:
        return [self.first, self.second][at]


# What counts, and what is refused


def test_only_positions_that_count_are_in_the_floor(make_backend: MakeBackend) -> None:
    backend = make_backend()
    texts, ends = ["the quick brown", "the lazy dog"], [" fox jumps", None]
    views = backend.compare(texts, ["ft"], completions=ends)["ft"]
    floor = backend.rounding_floor(texts, completions=ends, skip_first=1)
    expected = Positions.of(views, skip_first=1)
    assert {name: count for name, (_, count) in floor.kl_of.items()} == {
        name: count for name, (_, count) in expected.means_by_text(expected.kl).items()
    }
    long = ["the quick brown fox jumps over the lazy dog and again, the dog " * 12]
    with pytest.raises(ContextLengthError) as raised:
        backend.rounding_floor(["hello world", *long])
    assert raised.value.index == 1
    assert backend.rounding_floor(long, windows=True).mean > 0.0


@pytest.mark.parametrize(
    "options", [{"reruns": 3}, {"reruns": 0}, {"seed": -1}, {"skip_first": -1}, {"skip_first": 99}]
)
def test_options_out_of_range_are_refused(
    make_backend: MakeBackend, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        make_backend().rounding_floor(TEXTS, **options)


def test_texts_and_views_are_refused_as_in_compare(make_backend: MakeBackend) -> None:
    backend = make_backend()
    with pytest.raises(InvalidInputError, match="a list"):
        backend.rounding_floor("hello")
    with pytest.raises(InvalidInputError, match="0 positions"):
        backend.rounding_floor([])
    with pytest.raises(AdapterError):
        make_backend("llama").rounding_floor(TEXTS, reference="ft")
    with backend.as_base(), pytest.raises(NestedViewError):
        backend.rounding_floor(TEXTS)
    looks_ahead = HFBackend(twists.made(twists.LooksAhead), backend.tokenizer)
    with pytest.raises(UnsupportedModelError, match="causal"):
        looks_ahead.rounding_floor(TEXTS)


# What stays


def test_nothing_stays_on_the_model(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    before = tiny.frozen_state(backend.model)
    hooks = [dict(each._forward_hooks) for each in backend.model.modules()]
    value = backend.next_token_dist(TEXTS[0])
    key, computed = backend._scorer.identity_key(), backend.stats.forward_passes
    structure = backend._scorer.identity.structure(backend.tokenizer)
    backend.rounding_floor(TEXTS)
    assert tiny.frozen_state(backend.model) == before
    assert [dict(each._forward_hooks) for each in backend.model.modules()] == hooks
    assert not any(each._forward_pre_hooks for each in backend.model.modules())
    assert backend._scorer.identity_key() == key
    assert backend._scorer.identity.structure(backend.tokenizer) is structure
    assert backend.next_token_dist(TEXTS[0]) == value
    assert backend.stats.forward_passes == computed


def test_nothing_stays_after_an_exception(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(copied=True)
    before = backend.compare(TEXTS, ["ft"])
    calls = [0]

    def fails(*_: Any) -> None:
        calls[0] += 1
        raise ValueError("no")

    norm = backend.model.base_model.model.model.norm
    with monkeypatch.context() as patched:
        patched.setattr(norm, "forward", fails)
        with pytest.raises((ValueError, UnsupportedModelError)):
            backend.rounding_floor(TEXTS)
    assert calls[0] > 0
    assert not any(each._forward_hooks for each in backend.model.modules())
    assert not any(each._forward_pre_hooks for each in backend.model.modules())
    assert backend.compare(TEXTS, ["ft"]) == before


def test_logits_of_reruns_stay_within_their_bound(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = HFBackend(tiny.llama(), tokenizer)
    whole, rows = backend.rounding_floor(TEXTS), []

    def counting(ours: Any, theirs: Any, targets: Any, **options: Any) -> Any:
        rows.append(len(ours) + len(theirs))
        return position_differences(ours, theirs, targets, **options)

    monkeypatch.setattr(comparison, "position_differences", counting)
    monkeypatch.setattr(comparison, "SLAB_BYTES", 1)
    found = backend.rounding_floor(TEXTS, max_logit_bytes=20_000)
    assert max(rows) * 320 * 4 <= 20_000
    assert found.mean == pytest.approx(whole.mean, rel=0.5)
