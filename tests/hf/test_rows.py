"""Claims: views of one adapter share a forward where that is exact and pays, and nobody sees it.

Values are those of the views alone, within what batches differ by. Counters, events, keys, stored
values and errors are those of views that run one after the other. What isn't a product times the
scaling is found out by measurement.
"""

import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear

from forwardcache.hf import HFBackend
from forwardcache.hf.batch.row_factors import RowFactors
from forwardcache.hf.scoring import joint, joint_probe
from forwardcache.hf.scoring.joint import _Joint
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.tolerance import TOLERANCE, hold_to_tolerance

PROMPTS = list(tiny.PROMPTS)[:5]
SHORT = PROMPTS[:2]
ALL_LINEAR = {"target_modules": "all-linear"}
EVERYWHERE = {
    "target_modules": ["q_proj", "down_proj", "embed_tokens", "lm_head"],
    "rank_pattern": {"down_proj": 2},
    "use_rslora": True,
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measured after the first call, whatever it takes, and nothing known from other tests."""
    monkeypatch.setattr(joint, "FORWARDS", 1)
    monkeypatch.setattr(joint_probe, "_LEAST_GAIN", 0.0)
    joint.forget_all()
    yield
    joint.forget_all()


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The views of each joint forward's rows."""
    seen: list[list[str]] = []
    inner = _Joint._run_batch

    def seeing(self: Any, model: Any, pairs: Any) -> Any:
        seen.append([spec.view_id for spec, _ in pairs])
        return inner(self, model, pairs)

    monkeypatch.setattr(_Joint, "_run_batch", seeing)
    return seen


def views_of(backend: HFBackend) -> list[Any]:
    return [
        backend.as_base(),
        backend.as_finetuned(),
        backend.as_scaled_adapter(0.5),
        backend.as_scaled_adapter(-1.5),
    ]


def measured(backend: HFBackend) -> HFBackend:
    """A backend that knows whether its views may share a forward."""
    backend.score(["a"], views_of(backend), "next_token_dist")
    return backend


def alone(backend: HFBackend, items: Any, op: str, **options: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for view in views_of(backend):
        found |= backend.score(items, [view], op, **options)
    return found


def mixture() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(5)
    sizes: Any = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads: Any = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    config = MixtralConfig(vocab_size=tiny.VOCAB, max_position_embeddings=64, **sizes, **heads)
    return tiny.sharpened(MixtralForCausalLM(config)).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "all linear layers": lambda: tiny.with_lora(tiny.llama(), **ALL_LINEAR),
    "embedding and head": lambda: tiny.with_lora(tiny.llama(), **EVERYWHERE),
    "Conv1D": lambda: tiny.with_lora(
        tiny.gpt2(), target_modules=["c_attn", "c_fc", "wte"], fan_in_fan_out=True
    ),
    "a mixture's attention": lambda: tiny.with_lora(mixture()),
}


@pytest.mark.parametrize("name", MODELS)
def test_values_of_a_joint_forward_are_those_of_the_views(
    name: str, tokenizer: Any, forwards: list[list[str]]
) -> None:
    model = MODELS[name]()
    backend, other = HFBackend(model, tokenizer), HFBackend(model, tokenizer)
    measured(backend)
    pairs = [(prompt, " dog") for prompt in PROMPTS]
    ids = [[1, 2, 5]] * len(PROMPTS)
    for op, items, options in (
        ("next_token_dist", PROMPTS, {"top_k": 7}),
        ("rolling_logprob", PROMPTS[:3], {}),
        ("logprob_of", pairs, {}),
        ("logprobs_at", PROMPTS, {"token_ids": ids}),
    ):
        forwards.clear()
        found = backend.score(items, views_of(backend), op, **options)
        assert {view for forward in forwards for view in forward} == set(found), op
        expected = alone(other, items, op, **options)
        for view_id, values in expected.items():
            if op == "logprobs_at":
                assert abs(sum(found[view_id]) - sum(values)).max() < len(items) * TOLERANCE
            else:
                hold_to_tolerance(found[view_id], values)
    assert "its views share forwards of short prompts" in backend.admission.notes


def test_values_in_half_precision_are_as_near_as_in_other_batches(
    tokenizer: Any, forwards: list[list[str]]
) -> None:
    model = tiny.with_lora(tiny.llama(dtype=torch.bfloat16), **ALL_LINEAR).to(torch.bfloat16)
    backend = measured(HFBackend(model, tokenizer))
    found = backend.score(PROMPTS, views_of(backend), "next_token_dist", top_k=tiny.VOCAB)
    assert forwards
    expected = alone(HFBackend(model, tokenizer), PROMPTS, "next_token_dist", top_k=tiny.VOCAB)
    for view_id, values in expected.items():
        for one, other in zip(found[view_id], values, strict=True):
            ours, theirs = (each.logprobs[each.token_ids.argsort()] for each in (one, other))
            assert abs(ours - theirs).max() < 0.25, view_id


def test_the_other_rows_factor_would_be_seen(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, forwards: list[list[str]]
) -> None:
    inner = RowFactors.__init__

    def rotated(self: Any, rows: Any, factors: Any) -> None:
        inner(self, rows, [*factors[1:], factors[0]])

    monkeypatch.setattr(RowFactors, "__init__", rotated)
    backend = measured(make_backend())
    [note] = backend.admission.notes
    assert "other logits than alone" in note
    assert not forwards


class Unscaled(Linear):
    """Asks for its scaling only where that is a number."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        result: torch.Tensor = self.base_layer(x)
        if self.disable_adapters:
            return result
        scaling = self.scaling["default"]
        added: torch.Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return result + added * (scaling if isinstance(scaling, float) else 2.0)


class Added(Linear):
    """Adds the scaling itself."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        result: torch.Tensor = super().forward(x)
        if not self.disable_adapters:
            result = result + self.scaling["default"]
        return result


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Unscaled, "other logits than alone"), (Added, "raise RowsNotTold")],
)
def test_what_is_no_product_times_the_scaling_runs_view_by_view(
    kind: type[Any], why: str, tokenizer: Any, forwards: list[list[str]]
) -> None:
    model = tiny.with_lora(tiny.llama())
    for layer in tiny.lora_layers(model):
        layer.__class__ = kind
    backend = measured(HFBackend(model, tokenizer))
    assert why in "; ".join(backend.admission.notes)
    found = backend.score(SHORT, views_of(backend), "next_token_dist")
    assert not forwards
    assert found == alone(HFBackend(model, tokenizer), SHORT, "next_token_dist")


def test_experts_in_one_parameter_run_view_by_view(
    tokenizer: Any, forwards: list[list[str]]
) -> None:
    lora = LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    model: Any = get_peft_model(mixture(), lora).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    backend = measured(HFBackend(model, tokenizer))
    assert "run one after the other" in "; ".join(backend.admission.notes)
    found = backend.score(SHORT, views_of(backend), "next_token_dist")
    assert not forwards
    assert found == alone(HFBackend(model, tokenizer), SHORT, "next_token_dist")


def test_views_of_an_adapter_that_no_factor_reaches_run_one_by_one(
    tokenizer: Any, forwards: list[list[str]]
) -> None:
    backend = HFBackend(tiny.with_lora(tiny.llama(), use_dora=True), tokenizer)
    for prompt in PROMPTS:
        backend.score([prompt], [backend.as_base(), backend.as_finetuned()], "next_token_dist")
    assert not forwards
    assert backend.admission.notes == ()


def test_an_adapter_that_is_nothing_yet_is_measured_with_noise(
    tokenizer: Any, forwards: list[list[str]]
) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"])
    model: Any = get_peft_model(tiny.llama(), lora).eval()
    before = tiny.frozen_state(model)
    backend = measured(HFBackend(model, tokenizer))
    assert tiny.frozen_state(model) == before
    found = backend.score(SHORT, views_of(backend), "next_token_dist")
    assert len(forwards) == 1
    hold_to_tolerance(found["scaled_-1.50"], found["base"])


def told(path: Path) -> list[tuple[Any, ...]]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    fields = ("op", "view_id", "prompt_hash", "top_k", "hit", "batch_size", "error")
    # A digest of a key is another in each trace; equal ones are equal there.
    first: dict[str, int] = {}
    keys = [first.setdefault(event["key"], len(first)) for event in events]
    rest = [tuple(event.get(name) for name in fields) for event in events]
    return [*zip(keys, rest, strict=True)]


def counted(stats: Any) -> dict[str, Any]:
    figures = stats.to_dict()
    return {name: value for name, value in figures.items() if not name.endswith("_s")}


def test_counters_events_and_entries_are_those_of_views_one_after_the_other(
    shared_models: dict[str, Any],
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forwards: list[list[str]],
) -> None:
    def asked(name: str) -> tuple[Any, ...]:
        path = tmp_path / f"{name}.jsonl"
        with HFBackend(shared_models["llama+lora"], tokenizer, trace_path=path) as backend:
            measured(backend)
            pairs = [("hello", " world"), ("hello", ""), ("the quick", " brown"), ("hello", " wo")]
            with backend.as_scaled_adapter(0.5) as half:
                half.next_token_dist(SHORT[0])
            one = backend.score([*SHORT, SHORT[0]], views_of(backend), "next_token_dist")
            sliced = backend.score(SHORT, views_of(backend), "next_token_dist", top_k=3)
            pair = backend.score(pairs, views_of(backend)[::-1], "logprob_of", on_error="return")
            said = [[repr(type(each)) for each in values] for values in pair.values()]
            found = counted(backend.stats), len(backend.instrumentation.cache), said, list(one)
            assert sliced["ft"][0].token_ids.tolist() == one["ft"][0].token_ids[:3].tolist()
        return *found, told(path)

    together = asked("together")
    # One of the two prompts was cached in one of the four views.
    assert len(forwards[0]) == 7
    monkeypatch.setattr(joint_probe, "_LEAST_GAIN", math.inf)
    joint.forget_all()
    forwards.clear()
    assert asked("alone") == together
    assert not forwards


def test_each_value_is_stored_under_its_own_key(
    shared_models: dict[str, Any], tokenizer: Any, tmp_path: Path, forwards: list[list[str]]
) -> None:
    model = shared_models["llama+lora"]
    with HFBackend(model, tokenizer, store=tmp_path / "store") as backend:
        found = measured(backend).score(SHORT, views_of(backend), "next_token_dist")
    assert forwards
    with HFBackend(model, tokenizer, store=tmp_path / "store") as backend:
        assert alone(backend, SHORT, "next_token_dist") == found
        assert backend.stats.forward_passes == 0
    expected = alone(HFBackend(model, tokenizer), SHORT, "next_token_dist")
    for view_id, values in expected.items():
        hold_to_tolerance(found[view_id], values)


def test_an_infinite_adapter_leaves_base_its_value(
    tokenizer: Any, forwards: list[list[str]]
) -> None:
    model = tiny.with_lora(tiny.llama())
    backend = measured(HFBackend(model, tokenizer))
    for layer in tiny.lora_layers(model):
        with torch.no_grad():
            layer.lora_B["default"].weight.fill_(3e38)
    views = [backend.as_base(), backend.as_finetuned()]
    found = backend.score(SHORT, views, "next_token_dist", on_error="return")
    assert len(forwards) == 1
    assert found["base"] == alone(HFBackend(model, tokenizer), SHORT, "next_token_dist")["base"]
    assert backend.nonfinite_results == len(SHORT)
    assert "its views share forwards of short prompts" in backend.admission.notes
    again = backend.score(SHORT, [backend.as_base()], "next_token_dist")
    assert again["base"] == found["base"]


def test_a_forward_that_fails_leaves_the_model_as_it_was(
    make_backend: MakeBackend, forwards: list[list[str]]
) -> None:
    backend = make_backend(copied=True)
    broken: list[BaseException] = []

    def fail(*_: Any) -> None:
        if broken:
            raise broken.pop()

    tiny.lora_layers(backend.model)[-1].register_forward_hook(fail)
    measured(backend)
    before = tiny.frozen_state(backend.model)
    broken.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        backend.score(SHORT, views_of(backend), "next_token_dist")
    assert tiny.frozen_state(backend.model) == before
    broken.append(ValueError("broken"))
    found = backend.score(SHORT, views_of(backend), "next_token_dist")
    assert len(forwards) == 2
    assert tiny.frozen_state(backend.model) == before
    assert backend.admission.notes[-1].endswith("together they raise ValueError")
    assert found == alone(make_backend(), SHORT, "next_token_dist")
    broken.append(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        backend.score(PROMPTS[2:], views_of(backend), "next_token_dist")


def test_a_model_that_changes_under_a_joint_forward_is_run_anew(
    make_backend: MakeBackend, forwards: list[list[str]]
) -> None:
    backend = measured(make_backend(copied=True))
    layer = tiny.lora_layers(backend.model)[0]
    inner = _Joint._run_batch

    def changing(self: Any, model: Any, pairs: Any) -> Any:
        values = inner(self, model, pairs)
        if len(forwards) == 1:
            with torch.no_grad():
                layer.lora_A["default"].weight.mul_(2.0)
        return values

    _Joint._run_batch = changing  # type: ignore[method-assign]
    try:
        found = backend.score(SHORT, views_of(backend), "next_token_dist")
    finally:
        _Joint._run_batch = inner  # type: ignore[method-assign]
    assert len(forwards) == 2
    expected = alone(HFBackend(backend.model, backend.tokenizer), SHORT, "next_token_dist")
    for view_id, values in expected.items():
        hold_to_tolerance(found[view_id], values)


def test_other_threads_take_turns_with_joint_forwards(
    make_backend: MakeBackend, forwards: list[list[str]]
) -> None:
    backend, other = measured(make_backend()), make_backend()
    texts = [f"{prompt} {number}" for number in range(6) for prompt in SHORT]
    found: dict[str, list[Any]] = {"alone": []}

    def in_ft() -> None:
        with backend.as_finetuned() as view:
            found["alone"] += [view.next_token_dist(text) for text in reversed(texts)]

    thread = threading.Thread(target=in_ft)
    thread.start()
    for text in texts:
        for view_id, values in backend.score([text], views_of(backend), "next_token_dist").items():
            found.setdefault(view_id, []).extend(values)
    thread.join()
    assert forwards
    expected = alone(other, texts, "next_token_dist")
    for view_id, values in expected.items():
        hold_to_tolerance(found[view_id], values)
    hold_to_tolerance(found["alone"][::-1], expected["ft"])


def test_it_is_not_measured_before_that_pays(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, forwards: list[list[str]]
) -> None:
    monkeypatch.setattr(joint, "FORWARDS", 16)
    backend = make_backend()
    calls = 0
    while not forwards:
        backend.score([f"{SHORT[0]} {calls}"], views_of(backend), "next_token_dist")
        calls += 1
    assert calls * 4 > 16
    many = [f"{prompt} {number}" for number in range(20) for prompt in PROMPTS]
    forwards.clear()
    backend.score(many, views_of(backend), "next_token_dist")
    assert not forwards


def test_nulls_run_beside_the_views_that_share(
    make_backend: MakeBackend, forwards: list[list[str]]
) -> None:
    backend = measured(make_backend())
    views = [backend.as_null_adapter(7), *views_of(backend)]
    found = backend.score(SHORT, views, "next_token_dist")
    assert [sorted(forward) for forward in forwards] == [
        ["base"] * 2 + ["ft"] * 2 + ["scaled_-1.50"] * 2 + ["scaled_0.50"] * 2
    ]
    with make_backend().as_null_adapter(7) as null:
        assert found["null_7"] == null.next_token_dist_batch(SHORT)


def test_views_of_adapters_with_names_share_with_base_each_for_itself(
    folders: dict[str, Path], forwards: list[list[str]], tmp_path: Path
) -> None:
    named = {"one": folders["adapter"], "two": tmp_path / "two"}
    tiny.with_lora(tiny.llama(), r=2, target_modules=["q_proj"]).save_pretrained(named["two"])

    def asked(backend: HFBackend) -> list[Any]:
        of_one = [backend.as_finetuned("one"), backend.as_scaled_adapter(0.5, adapter="one")]
        of_two = [backend.as_finetuned("two"), backend.as_scaled_adapter(-1.5, adapter="two")]
        return [backend.as_base(), *of_one, *of_two]

    given: Any = {name: str(path) for name, path in named.items()}
    with HFBackend.load(folders["model"], given) as backend:
        backend.score(["a"], asked(backend), "next_token_dist")
        found = backend.score(SHORT, asked(backend), "next_token_dist")
    assert [sorted(set(forward)) for forward in forwards] == [
        ["base", "ft:one", "scaled_0.50:one"],
        ["ft:two", "scaled_-1.50:two"],
    ]
    with HFBackend.load(folders["model"], given) as backend:
        for view in asked(backend):
            with view as entered:
                hold_to_tolerance(found[view.view_id], entered.next_token_dist_batch(SHORT))


def test_a_second_name_of_an_adapter_shares_what_is_run_for_the_first(
    folders: dict[str, Path], forwards: list[list[str]]
) -> None:
    given: Any = {name: str(folders["adapter"]) for name in ("one", "same")}
    with HFBackend.load(folders["model"], given) as backend:

        def asked() -> list[Any]:
            of_same = [
                backend.as_finetuned("same"),
                backend.as_scaled_adapter(0.5, adapter="same"),
            ]
            return [backend.as_base(), *of_same]

        backend.score(["a"], asked(), "next_token_dist")
        with backend.provenance() as notes:
            backend.score(SHORT, asked(), "next_token_dist")
    assert [set(forward) for forward in forwards] == [{"base", "ft:one", "scaled_0.50:one"}]
    assert len({each.positions for note in notes for each in note.batches}) == 1
