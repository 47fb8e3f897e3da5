"""Claims: several adapters of one model stand side by side. Each view gives what a model with that
adapter alone gives; base is computed once for all; keys hold what adapters are and not what they
are called or which others there are; the model is, between calls, what it was without them.
"""

from __future__ import annotations

import copy
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file

from forwardcache.errors import (
    AdapterError,
    InvalidInputError,
    NestedViewError,
    UnsupportedModelError,
)
from forwardcache.hf import HFBackend
from forwardcache.hf.model import adapters_of_folders
from forwardcache.hf.model.adapters_of_folders import AdaptersOfFolders
from tests.hf import tiny
from tests.tolerance import TOLERANCE, hold_to_tolerance

PROMPTS = list(tiny.PROMPTS[:4])

Make = Callable[..., HFBackend]


def trained(config: Any, seed: int, model: Any = None) -> Any:
    """A model with an adapter whose numbers are drawn from ``seed``."""
    torch.manual_seed(seed)
    adapted = get_peft_model(tiny.llama() if model is None else model, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return adapted.eval()


def lora(**options: Any) -> LoraConfig:
    plain: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    return LoraConfig(**plain | options)


CONFIGS: dict[str, Any] = {
    "plain": lora(),
    "ranks": lora(r=2, target_modules=["q_proj", "down_proj"], rank_pattern={"q_proj": 3},
                  alpha_pattern={"down_proj": 1}),
    "embedding": lora(target_modules=["embed_tokens", "q_proj"]),
    "head": lora(target_modules=["lm_head", "k_proj"]),
    "saved": lora(modules_to_save=["lm_head", "norm"]),
    "dora": lora(use_dora=True, use_rslora=True),
    "tokens": lora(trainable_token_indices=[5, 6]),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model's folder, and adapters of it beside: of many kinds, and twice one content."""
    root = tmp_path_factory.mktemp("runs")
    tiny.llama().save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    for number, (name, config) in enumerate(CONFIGS.items()):
        trained(copy.deepcopy(config), 10 + number).save_pretrained(root / name)
    trained(lora(), 30).save_pretrained(root / "other")
    shutil.copytree(root / "plain", root / "twin")
    settings = json.loads((root / "twin" / "adapter_config.json").read_text())
    settings |= {"base_model_name_or_path": "elsewhere/model", "inference_mode": False}
    (root / "twin" / "adapter_config.json").write_text(json.dumps(settings))
    trained(lora(), 31, tiny.llama(hidden=64)).save_pretrained(root / "wider")
    return root


@pytest.fixture
def load(runs: Path) -> Iterator[Make]:
    """Backends over the folders of that name."""
    made: list[HFBackend] = []

    def make(*names: str, folders: Mapping[str, Path] | None = None, **options: Any) -> HFBackend:
        given = {name: runs / name for name in names} if folders is None else folders
        made.append(HFBackend.load(runs / "model", given, device="cpu", **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def adapters_of(backend: HFBackend) -> AdaptersOfFolders:
    adapters = backend._scorer.adapters
    assert isinstance(adapters, AdaptersOfFolders)
    return adapters


def alone(runs: Path, name: str | None) -> Any:
    """The oracle: PEFT's own model with that adapter alone."""
    return tiny.llama() if name is None else PeftModel.from_pretrained(tiny.llama(), runs / name)


def are_of(values: list[Any], model: Any, tokenizer: Any) -> bool:
    model.eval()
    pairs = zip(values, PROMPTS, strict=True)
    return all(tiny.agrees(value, model, tokenizer(text).input_ids) for value, text in pairs)


def scored(backend: HFBackend, name: str | None, **options: Any) -> list[Any]:
    view = backend.as_base() if name is None else backend.as_finetuned(name)
    with view as entered:
        found: list[Any] = entered.next_token_dist_batch(PROMPTS, top_k=8, **options)
        return found


def flags(model: Any) -> dict[str, Any]:
    """Everything of a model that loading an adapter may not change."""
    state = tiny.frozen_state(model)
    for name, module in model.named_modules():
        fields = vars(module)
        hooks = [len(held) for key, held in fields.items() if key.endswith("_hooks")]
        children = [id(each) for each in fields["_modules"].values()]
        state[f"built {name}"] = sorted(fields), hooks, children, list(fields["_parameters"])
    state["versions"] = [each._version for each in model.parameters()]
    state["keys"] = list(model.state_dict())
    state["config"] = model.config.to_dict()
    return state


def test_each_adapter_gives_what_it_gives_alone(load: Make, runs: Path, tokenizer: Any) -> None:
    backend = load(*CONFIGS, max_adapters=2)
    before = flags(backend.model)
    assert backend.adapters == tuple(CONFIGS)
    for name in (None, *CONFIGS, None):
        assert are_of(scored(backend, name), alone(runs, name), tokenizer), name
        assert flags(backend.model) == before, name
    assert len(adapters_of(backend).in_memory) == 2
    assert backend.stats.forward_passes == len(PROMPTS) * (1 + len(CONFIGS))


def test_an_adapter_gives_the_bits_that_it_gives_without_a_name(load: Make, runs: Path) -> None:
    backend = load("plain", "embedding", "dora")
    sole = HFBackend.load(runs / "model", runs / "plain", device="cpu")
    views = [sole.as_base(), sole.as_finetuned(), sole.as_scaled_adapter(0.5),
             sole.as_null_adapter(7), sole.as_null_adapter(7, matched=True)]  # fmt: skip
    named = [backend.as_base(), backend.as_finetuned("plain"),
             backend.as_scaled_adapter(0.5, adapter="plain"),
             backend.as_null_adapter(7, adapter="plain"),
             backend.as_null_adapter(7, matched=True, adapter="plain")]  # fmt: skip
    found = backend.score(PROMPTS, named, "rolling_logprob")
    assert list(found) == ["base", "ft:plain", "scaled_0.50:plain", "null_7:plain",
                           "null_7_matched:plain"]  # fmt: skip
    for ours, theirs in zip(
        found.values(), sole.score(PROMPTS, views, "rolling_logprob").values(), strict=True
    ):
        assert [each.logprobs.tobytes() for each in ours] == [
            each.logprobs.tobytes() for each in theirs
        ]
    sole.close()


def test_what_is_cached_loads_nothing(load: Make) -> None:
    names = ("plain", "ranks", "other")
    backend = load(*names, max_adapters=1)
    first = {name: scored(backend, name) for name in (None, *names)}
    counted, loads = backend.stats.snapshot(), adapters_of(backend).loads
    assert {name: scored(backend, name) for name in (None, *names)} == first
    assert backend.stats.since(counted).forward_passes == 0
    assert adapters_of(backend).loads == loads


def test_a_store_serves_other_processes_and_each_adapter_its_own(
    load: Make, runs: Path, tmp_path: Path
) -> None:
    store = tmp_path / "values.db"
    with load("plain", "other", store=store) as backend:
        first = {name: scored(backend, name) for name in (None, "plain", "other")}
    adapters_of_folders.forget_all()
    # Another process: other names, others beside, another order, a few in memory.
    folders = {"x": runs / "other", "y": runs / "plain", "z": runs / "dora"}
    with load(folders=folders, store=store, max_adapters=1) as again:
        assert [scored(again, name) for name in (None, "x", "y")] == [
            first[None], first["other"], first["plain"],
        ]  # fmt: skip
        assert again.stats.forward_passes == 0
        scored(again, "z")
        assert again.stats.forward_passes == len(PROMPTS)


def test_two_names_for_one_content_share_and_one_name_for_two_contents_does_not(
    load: Make, runs: Path, tmp_path: Path
) -> None:
    store = tmp_path / "values.db"
    with load("plain", "twin", store=store) as backend:
        first = scored(backend, "plain")
        passes = backend.stats.forward_passes
        assert scored(backend, "twin") == first
        assert backend.stats.forward_passes == passes
        compared = backend.compare(PROMPTS, ["ft:plain", "ft:twin"], reference="base")
        assert compared["ft:plain"] == compared["ft:twin"]
    folder = tmp_path / "run"
    shutil.copytree(runs / "plain", folder)
    with load(folders={"run": folder}, store=store) as backend:
        assert scored(backend, "run") == first
        assert backend.stats.forward_passes == 0
        shutil.copy(runs / "other" / "adapter_model.safetensors", folder)
        changed = scored(backend, "run")
        assert changed != first
        assert backend.stats.forward_passes == len(PROMPTS)
    with load("other", store=store) as backend:
        assert scored(backend, "other") == changed
        assert backend.stats.forward_passes == 0


def test_base_does_not_depend_on_the_adapters(load: Make, runs: Path, tmp_path: Path) -> None:
    store = tmp_path / "values.db"
    with HFBackend.load(runs / "model", store=store) as plain, plain.as_base() as base:
        found = base.next_token_dist_batch(PROMPTS, top_k=8)
    for names in (["plain"], ["embedding", "saved", "ia3"]):
        with load(*names, store=store) as backend:
            assert scored(backend, None) == found
            assert backend.stats.forward_passes == 0


def test_weights_of_the_base_model_that_change_make_every_key_another(load: Make) -> None:
    backend = load("plain", "other")
    first = [scored(backend, name) for name in (None, "plain")]
    with torch.no_grad():
        backend.model.model.norm.weight.mul_(1.5)
    assert [scored(backend, name) for name in (None, "plain")] != first
    assert backend.stats.forward_passes == 4 * len(PROMPTS)


def test_an_adapter_that_is_written_to_in_memory_is_another_one(load: Make) -> None:
    backend = load("plain", "twin", "other")
    first = scored(backend, "plain")

    def double(model: Any) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.data.mul_(2.0)

    with backend.as_finetuned("plain") as view:
        view.run(double)
    changed = scored(backend, "plain")
    assert changed != first
    assert scored(backend, "twin") == first


def test_two_threads_on_two_adapters(load: Make, runs: Path, tokenizer: Any) -> None:
    backend = load("plain", "ranks", "saved", max_adapters=1)
    found: dict[str, list[Any]] = {}
    barrier = threading.Barrier(3)

    def work(name: str) -> None:
        barrier.wait()
        values = []
        with backend.as_finetuned(name) as view:
            for prompt in PROMPTS:
                values.append(view.next_token_dist(prompt, top_k=8))
        found[name] = values

    threads = [threading.Thread(target=work, args=(name,)) for name in backend.adapters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in backend.adapters:
        assert are_of(found[name], alone(runs, name), tokenizer)


def test_a_forward_that_raises_leaves_the_model_as_it_was(load: Make) -> None:
    backend = load("plain", "head")
    expected = {name: scored(backend, name) for name in (None, *backend.adapters)}
    before = flags(backend.model)

    def broken(_model: Any) -> None:
        raise RuntimeError("broken in the middle")

    for name in backend.adapters:
        with pytest.raises(RuntimeError, match="in the middle"), backend.as_finetuned(name) as view:
            view.run(broken)
        assert flags(backend.model) == before
    again = {name: scored(backend, name) for name in (None, *backend.adapters)}
    assert again == expected


@pytest.mark.parametrize("stands", ["evaluation", "training"])
def test_a_load_that_fails_leaves_the_model_as_it_was(
    runs: Path, tokenizer: Any, tmp_path: Path, stands: str
) -> None:
    model = tiny.llama()
    model.train(stands == "training")
    before, random = flags(model), torch.get_rng_state()
    shutil.copytree(runs / "plain", tmp_path / "cut")
    weights = load_file(runs / "plain" / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "cut" / "adapter_model.safetensors")
    for folder in (runs / "wider", tmp_path / "cut"):
        with pytest.raises(AdapterError, match="adapter 'b'"):
            HFBackend(model, tokenizer, adapter={"a": runs / "plain", "b": folder})
        assert flags(model) == before
    assert torch.equal(random, torch.get_rng_state())


def test_an_adapter_that_would_change_the_base_model_is_refused(
    runs: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny.llama()
    before = flags(model)
    resized = trained(lora(target_modules=["embed_tokens"]), 40, tiny.sharpened(tiny.llama(), 2.0))
    resized.save_pretrained(tmp_path / "embedded")
    trained(lora(init_lora_weights="pissa"), 41).save_pretrained(tmp_path / "pissa")
    for name, word in {"embedded": "embed_tokens", "pissa": "pissa"}.items():
        given = {"a": runs / "plain", "b": tmp_path / name}
        with pytest.raises(AdapterError, match=word):
            HFBackend(model, tokenizer, adapter=given)
        assert flags(model) == before


def test_tied_embeddings_and_adapters_on_both_ends(tmp_path: Path, tokenizer: Any) -> None:
    untied = tiny.llama()
    untied.config.tie_word_embeddings = True
    torch.manual_seed(7)
    state = tiny.sharpened(type(untied)(untied.config)).state_dict()

    def fresh() -> Any:
        model = type(untied)(untied.config).eval()
        model.load_state_dict(state)
        model.tie_weights()
        return model

    configs = {
        "head": lora(target_modules=["lm_head", "q_proj"]),
        "embedding": lora(target_modules=["embed_tokens"]),
        "tokens": TrainableTokensConfig(token_indices=[3, 4]),
        "saved": lora(modules_to_save=["embed_tokens"]),
    }
    for number, (name, config) in enumerate(configs.items()):
        trained(config, 50 + number, fresh()).save_pretrained(tmp_path / name)
    model = fresh()
    before = flags(model)
    given = {name: tmp_path / name for name in configs}
    with HFBackend(model, tokenizer, adapter=given, max_adapters=2) as backend:
        for each in (None, *given):
            oracle = fresh()
            oracle = oracle if each is None else PeftModel.from_pretrained(oracle, given[each])
            assert are_of(scored(backend, each), oracle, tokenizer), each
            assert flags(model) == before, each


def test_adapters_that_a_model_came_with(runs: Path, tokenizer: Any, tmp_path: Path) -> None:
    def model() -> Any:
        made = PeftModel.from_pretrained(tiny.llama(), runs / "plain", adapter_name="a")
        made.load_adapter(runs / "ranks", "b")
        made.load_adapter(runs / "saved", "c")
        return made.eval()

    store = tmp_path / "values.db"
    own = model()
    before = flags(own)
    backend = HFBackend(own, tokenizer, adapter=["a", "b", "c"], store=store)
    held: dict[str | None, str | None] = {None: None, "a": "plain", "b": "ranks", "c": "saved"}
    for name, folder in held.items():
        assert are_of(scored(backend, name), alone(runs, folder), tokenizer), name
        assert flags(own) == before, name
    passes = backend.stats.forward_passes
    own.set_adapter("b")
    own.load_adapter(runs / "other", "d")
    for name in (None, "a", "b", "c"):
        scored(backend, name)
    assert backend.stats.forward_passes == passes
    own.delete_adapter("a")
    own.load_adapter(runs / "other", "a")
    assert are_of(scored(backend, "a"), alone(runs, "other"), tokenizer)
    own.eval()
    backend.close()
    # Only base and the adapter's own content are in the keys.
    two = PeftModel.from_pretrained(tiny.llama(), runs / "ranks", adapter_name="q")
    two.load_adapter(runs / "dora", "p")
    with HFBackend(two.eval(), tokenizer, adapter=["p", "q"], store=store) as again:
        scored(again, None)
        scored(again, "q")
        assert again.stats.forward_passes == 0


def test_one_without_a_part_in_a_module_that_another_stands_for(runs: Path, tokenizer: Any) -> None:
    # Asked for its weight, that one looks for the rows of the adapter that is active.
    own = PeftModel.from_pretrained(tiny.llama(), runs / "plain", adapter_name="a")
    own.add_adapter("e", copy.deepcopy(CONFIGS["tokens"]))
    backend = HFBackend(own.eval(), tokenizer, adapter=["a", "e"])
    assert are_of(scored(backend, "a"), alone(runs, "plain"), tokenizer)
    assert are_of(scored(backend, "e"), alone(runs, None), tokenizer)


def test_noise_of_an_adapter_does_not_depend_on_others_on_the_model(
    runs: Path, load: Make, tokenizer: Any
) -> None:
    own = PeftModel.from_pretrained(tiny.llama(), runs / "ranks", adapter_name="other")
    own.load_adapter(runs / "plain", "plain")
    with (
        HFBackend(own.eval(), tokenizer, adapter=["plain", "other"]) as beside,
        beside.as_null_adapter(7, init_scale=0.3, adapter="plain") as noise,
        load("plain").as_null_adapter(7, init_scale=0.3) as alone_noise,
    ):
        found = noise.next_token_dist_batch(PROMPTS, top_k=8)
        hold_to_tolerance(found, alone_noise.next_token_dist_batch(PROMPTS, top_k=8))


@pytest.mark.parametrize("keep", ["values", "states"])
@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_weights_changed_is_said_of_every_adapter_that_a_model_came_with(
    runs: Path, tokenizer: Any, tmp_path: Path, keep: Any, names: Any
) -> None:
    own = PeftModel.from_pretrained(tiny.llama(), runs / "plain", adapter_name="a")
    own.load_adapter(runs / "ranks", "b")
    with HFBackend(
        own.eval(), tokenizer, adapter=names, keep=keep, store=tmp_path / "values.db"
    ) as backend:
        every = (None, *(names or ["b"]))
        for name in every:
            scored(backend, name)
        # Nobody sees a number in a module's own attribute.
        norm: Any = own.get_submodule("base_model.model.model.norm")
        norm.variance_epsilon = 0.5
        backend.weights_changed()
        for name in every:
            oracle = alone(runs, {None: None, "a": "plain", "b": "ranks"}[name])
            plain: Any = oracle if name is None else oracle.base_model.model
            plain.model.norm.variance_epsilon = 0.5
            assert are_of(scored(backend, name), oracle, tokenizer), name


def test_without_a_list_a_model_s_active_adapter_is_ft(runs: Path, tokenizer: Any) -> None:
    own = PeftModel.from_pretrained(tiny.llama(), runs / "plain", adapter_name="a")
    own.load_adapter(runs / "other", "b")
    with HFBackend(own.eval(), tokenizer) as backend:
        assert backend.adapters == ("a", "b")
        with backend.as_finetuned() as view:
            assert view.view_id == "ft"
            active = view.next_token_dist_batch(PROMPTS, top_k=8)
        assert are_of(active, alone(runs, "plain"), tokenizer)
        assert are_of(scored(backend, "b"), alone(runs, "other"), tokenizer)


def test_comparing_several_at_once(load: Make, runs: Path) -> None:
    backend = load("plain", "head", "dora", max_adapters=1)
    found = backend.compare(PROMPTS, ["ft:plain", "scaled:0.5:plain", "ft:head", "ft:dora"])
    for name in ("plain", "head", "dora"):
        sole = HFBackend.load(runs / "model", runs / name, device="cpu")
        for ours, theirs in zip(
            found[f"ft:{name}"], sole.compare(PROMPTS, ["ft"])["ft"], strict=True
        ):
            assert abs(ours.kl - theirs.kl).max() < TOLERANCE
        sole.close()


def test_what_can_not_be_asked_is_refused_in_one_line(load: Make, runs: Path) -> None:
    backend = load("plain", "dora")
    with pytest.raises(InvalidInputError, match="plain, dora"):
        backend.as_finetuned()
    with pytest.raises(InvalidInputError, match="plain, dora"):
        backend.next_token_dist("hello")
    with pytest.raises(InvalidInputError, match="'nobody'"):
        backend.as_scaled_adapter(0.5, adapter="nobody")
    with pytest.raises(InvalidInputError, match="which adapter"):
        backend.compare(PROMPTS, ["ft"])
    with (
        pytest.raises(UnsupportedModelError, match="DoRA"),
        backend.as_scaled_adapter(0.5, adapter="dora"),
    ):
        pass
    with (
        backend.as_finetuned("plain"),
        pytest.raises(NestedViewError),
        backend.as_finetuned("dora"),
    ):
        pass
    with pytest.raises(InvalidInputError, match="no adapter is called"):
        HFBackend.load(runs / "model", runs / "plain").as_finetuned("plain")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"a": "plain", "b": "wider"}, "adapter 'b'.*wider"),
        ({"a": "plain", "b": "nothing"}, "nothing"),
        ({"a": "model"}, "adapter_config.json"),
        ({"base": "plain"}, "view is called so"),
        ({"": "plain"}, "printable"),
        ({"a:b": "plain"}, "':'"),
        ({}, "expected names"),
    ],
)
def test_what_is_no_adapter_or_no_name_is_refused(
    load: Make, runs: Path, given: dict[str, str], word: str
) -> None:
    with pytest.raises((AdapterError, InvalidInputError), match=word) as refused:
        load(folders={name: runs / folder for name, folder in given.items()})
    assert "\n" not in str(refused.value)


def test_one_that_is_gone_by_the_time_it_is_needed_is_named(
    load: Make, runs: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        shutil.copytree(runs / "plain" if name == "one" else runs / "other", tmp_path / name)
    backend = load(folders={name: tmp_path / name for name in ("one", "two")})
    shutil.rmtree(tmp_path / "two")
    scored(backend, "one")
    with pytest.raises(AdapterError, match="two"):
        scored(backend, "two")


def test_one_with_a_name_has_it_in_its_views(load: Make) -> None:
    backend = load("plain")
    assert backend.as_finetuned().view_id == "ft:plain"
    assert backend.as_null_adapter(7, matched=True).view_id == "null_7_matched:plain"
    own = backend.next_token_dist(PROMPTS[0], top_k=8)
    assert own == scored(backend, "plain")[0]


def test_a_comparison_loads_adapters_that_do_not_fit_once(
    load: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwardcache.hf.scoring.comparison._SMALL_SLAB_BYTES", 1)
    backend = load("plain", "other", "ranks", max_adapters=2, token_budget=8)
    views = [backend.as_finetuned(name) for name in backend.adapters]
    before = adapters_of(backend).loads
    # Batches of a text each, which would else be as many slabs.
    backend.compare([*PROMPTS, *(f"{text} and on" for text in PROMPTS)], views)
    assert adapters_of(backend).loads - before <= len(views)


def test_one_that_is_loaded_in_the_middle_of_a_comparison_is_like_any_other(load: Make) -> None:
    backend = load("plain", "head", max_adapters=1)
    backend.compare(PROMPTS, ["ft:plain", "ft:head"])
    # The heads were run last, in inference mode, each with its adapter on.
    for held in adapters_of(backend)._held.values():
        with held.overlay.on():
            assert not any(each.is_inference() for each in held.model.parameters())
