"""Claims: the quick look and the plain one in Python give the same verdict after any edits of a
model, seen by it or not; after an edit that is no change the look is quick again.

What each edit is, and whether it changes the state, nobody says here: the plain look tells.
"""

import copy
import dataclasses
import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformers.models.llama import modeling_llama

from forwardcache.hf.model import look, versions
from forwardcache.hf.model.identity import ModelIdentity
from forwardcache.hf.model.layout import layout
from forwardcache.hf.model.tags import are_dicts_numbered
from tests.hf import tiny
from tests.hf.adapter_cases import CASES
from tests.hf.setting_objects import KEEPERS, RECORDS, Plain, Simple

Edit = Callable[["Edited"], Iterator[None] | None]


class Edited:
    """A model, and what a random edit may take hold of."""

    def __init__(self, model: Any, seed: int) -> None:
        self.model = model
        self.random = random.Random(seed)

    def module(self) -> nn.Module:
        found: list[nn.Module] = list(self.model.modules())
        return self.random.choice(found)

    def place(self) -> tuple[nn.Module, str, Tensor]:
        """A module, the name of a parameter of its own, and that."""
        found = [
            (module, name, each)
            for module in self.model.modules()
            for name, each in module.named_parameters(recurse=False)
        ]
        return self.random.choice(found)

    def tensor(self) -> Tensor:
        found: list[Tensor] = [*self.model.parameters(), *self.model.buffers()]
        return self.random.choice(found)

    def adapters(self) -> Tensor:
        named = self.model.named_parameters()
        found: list[Tensor] = [each for name, each in named if "lora_" in name]
        return self.random.choice(found)

    def layer(self) -> Any:
        return self.random.choice(list(tiny.lora_layers(self.model)))

    def config(self) -> Any:
        return self.random.choice([self.model.config, *self.model.peft_config.values()])

    def often(self) -> bool:
        return self.random.random() < 0.5


def writes_attribute(edited: Edited) -> None:
    module: Any = edited.module()
    module.noted = object()
    if edited.often():
        del module.noted


def writes_what_was_there(edited: Edited) -> None:
    module = edited.module()
    name = edited.random.choice([each for each in vars(module) if each != "training"])
    vars(module)[name] = vars(module)[name]


def replaces_by_an_equal_one(edited: Edited) -> None:
    module, name, tensor = edited.place()
    setattr(module, name, nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad))


def takes_out_and_puts_back(edited: Edited) -> None:
    module, name, tensor = edited.place()
    delattr(module, name)
    module.register_parameter(name, tensor)  # type: ignore[arg-type]


def raises_a_version(edited: Edited) -> None:
    with torch.no_grad():
        edited.tensor().mul_(1.0)


def writes_past_versions(edited: Edited) -> None:
    tensor = edited.adapters() if edited.often() else edited.tensor()
    before = tensor.data.flatten()[0].clone()
    tensor.data.view(-1)[0] = before + 1
    if edited.often():
        tensor.data.view(-1)[0] = before


def writes_by_numpy(edited: Edited) -> None:
    edited.adapters().data.numpy().reshape(-1)[-1] += 1.0


def points_elsewhere(edited: Edited) -> None:
    tensor = edited.tensor()
    tensor.data = tensor.data.clone()


def points_at_a_part(edited: Edited) -> None:
    tensor = edited.tensor()
    whole, tensor.data = tensor.data, tensor.data[:0]
    if edited.often():
        tensor.data = whole


def resizes_a_storage(edited: Edited) -> None:
    storage = edited.adapters().untyped_storage()
    storage.resize_(storage.nbytes() + 64)


def hooks(edited: Edited) -> None:
    handle = edited.module().register_forward_hook(lambda *_: None)
    if edited.often():
        handle.remove()


def hooks_everywhere(edited: Edited) -> None:
    torch_module.register_module_forward_hook(lambda *_: None).remove()


def sets_a_setting(edited: Edited) -> None:
    config = edited.config()
    name = edited.random.choice(list(vars(config)))
    old = vars(config)[name]
    # Past the checks of what a setting may be.
    vars(config)[name] = copy.deepcopy(old) if edited.often() else [old]
    if edited.often():
        vars(config)[name] = old


def changes_deep_in_a_setting(edited: Edited) -> Iterator[None]:
    edited.model.config.nested = {"deep": [1, [2, {3}], {"four": 4}]}
    yield
    nested = edited.model.config.nested
    deep = nested["deep"]
    changes: list[Callable[[], Any]] = [
        lambda: deep.append(5),
        lambda: deep[1].__setitem__(0, 3),
        lambda: deep[1][1].add(6),
        lambda: deep[1][1].add(3),
        lambda: deep[2].update(four=5),
        lambda: deep[2].update(four=4),
        lambda: nested.__setitem__("deep", copy.deepcopy(deep)),
        lambda: deep.sort(key=str),
    ]
    edited.random.choice(changes)()


def changes_an_object_in_a_setting(edited: Edited) -> None:
    for config in edited.model.peft_config.values():
        held = [each for each in vars(config).values() if dataclasses.is_dataclass(each)]
        for each in held:
            name = edited.random.choice([field.name for field in dataclasses.fields(each)])
            vars(each)[name] = edited.often()
            if edited.often():
                object.__setattr__(each, "__dict__", dict(vars(each)))


def changes_what_an_object_keeps(edited: Edited) -> Iterator[None]:
    make, change = edited.random.choice(list(KEEPERS.values()))
    kept = make()
    edited.model.config.first = [edited.random.choice(RECORDS)()]
    edited.model.config.kept = [kept] if edited.often() else kept
    yield
    change(kept, edited.random.choice([1, 5]))
    yield
    edited.model.config.first = edited.model.config.kept = None


def changes_a_record(edited: Edited) -> Iterator[None]:
    record = edited.random.choice(RECORDS)()
    edited.model.config.first = record
    yield
    name = edited.random.choice([*vars(record), "new"])
    vars(record)[name] = edited.random.choice([1, 5])


def scales(edited: Edited) -> None:
    scaling, factor = edited.layer().scaling, edited.random.choice([1.0, 1.5])
    for name in scaling:
        scaling[name] *= factor


def merges_in_name(edited: Edited) -> None:
    merged = edited.layer().merged_adapters
    merged.append("default")
    if edited.often():
        merged.pop()


def turns_off(edited: Edited) -> None:
    layer = edited.layer()
    layer.enable_adapters(False)
    if edited.often():
        layer.enable_adapters(True)


def activates(edited: Edited) -> None:
    layer = edited.layer()
    layer._active_adapter = edited.random.choice(["default", ["default"], []])


def replaces_a_module(edited: Edited) -> None:
    layers = edited.model.base_model.model.model.layers
    old = layers[0].mlp.act_fn
    layers[0].mlp.act_fn = nn.SiLU() if edited.often() else old


def trains(edited: Edited) -> None:
    edited.module().train(edited.often())


def asks_for_gradients(edited: Edited) -> None:
    edited.tensor().requires_grad_(edited.often())


def puts_a_forward_on(edited: Edited) -> None:
    module = edited.module()
    module.forward = module.forward
    if edited.often():
        del module.forward


def around(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        return function(*given, **named)

    return run


def patches_a_class(edited: Edited) -> Iterator[None]:
    kind: Any = edited.random.choice(
        [modeling_llama.LlamaMLP, nn.Linear, modeling_llama.LlamaModel, nn.Module]
    )
    name = "_call_impl" if kind is nn.Module else "forward"
    old = getattr(kind, name)
    with mock.patch.object(kind, name, around(old)):
        yield


def patches_a_function(edited: Edited) -> Iterator[None]:
    old = modeling_llama.apply_rotary_pos_emb
    with mock.patch.object(modeling_llama, "apply_rotary_pos_emb", around(old)):
        yield
    with mock.patch.object(modeling_llama, "unheard_of", object(), create=True):
        yield


def nothing(edited: Edited) -> None:
    """Also in the middle: both looks are repeated."""


ANYWHERE: tuple[Edit, ...] = (
    writes_attribute,
    writes_what_was_there,
    replaces_by_an_equal_one,
    takes_out_and_puts_back,
    raises_a_version,
    points_elsewhere,
    points_at_a_part,
    hooks,
    hooks_everywhere,
    sets_a_setting,
    changes_deep_in_a_setting,
    changes_an_object_in_a_setting,
    changes_what_an_object_keeps,
    changes_a_record,
    trains,
    asks_for_gradients,
    puts_a_forward_on,
    nothing,
)
OF_LORA: tuple[Edit, ...] = (
    *ANYWHERE,
    writes_past_versions,
    writes_by_numpy,
    resizes_a_storage,
    scales,
    merges_in_name,
    turns_off,
    activates,
    replaces_a_module,
    patches_a_class,
    patches_a_function,
)


class Both:
    """An identity that looks quickly and one that never does, of one model."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.quick, self.plain = ModelIdentity(model), ModelIdentity(model)
        self.seen: tuple[Any, ...] = ()
        self.look()

    def look(self) -> None:
        """Looks, and holds one verdict against the other."""
        quick = self.quick.state(self.tokenizer)
        with only_plainly():
            plain = self.plain.state(self.tokenizer)
        if self.seen:
            old_quick, old_plain = self.seen
            assert (quick is old_quick) == (plain is old_plain)
            assert (quick.structure is old_quick.structure) == (
                plain.structure is old_plain.structure
            )
        self.seen = quick, plain
        self.check_that_it_is_quick()

    def check_that_it_is_quick(self) -> None:
        """Whatever was looked at closely just now is looked at quickly from now on."""
        watch = self.quick._watch
        assert watch is not None
        if are_dicts_numbered() and watch._quick.is_possible:
            watch.unchanged()
            assert watch._quick.tensors() == watch.tensors()
        tensors = watch.tensors()
        if layout() is not None and self.quick._versions is not None and not watch.saves_itself:
            assert self.quick._stands(tensors)
        assert self.quick.policy(self.tokenizer) == self.plain.policy(self.tokenizer)


@contextmanager
def only_plainly() -> Iterator[None]:
    with (
        mock.patch.object(look, "are_dicts_numbered", return_value=False),
        mock.patch.object(versions, "layout", return_value=None),
    ):
        yield


def edit_and_look(model: Any, tokenizer: Any, edits: tuple[Edit, ...], drawn: list[int]) -> None:
    both, edited = Both(model, tokenizer), Edited(model, drawn[0])
    for number in drawn:
        for _ in edits[number % len(edits)](edited) or ():
            both.look()
        both.look()
    both.look()


STEPS = st.lists(st.integers(0, 10_000), min_size=1, max_size=12)
FEW = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(drawn=STEPS)
def test_both_looks_see_the_same(drawn: list[int], shared_models: Any, tokenizer: Any) -> None:
    edit_and_look(copy.deepcopy(shared_models["llama+lora"]), tokenizer, OF_LORA, drawn)


@pytest.mark.parametrize("edit", OF_LORA, ids=lambda each: str(each.__name__))
def test_both_looks_see_each_edit(edit: Edit, shared_models: Any, tokenizer: Any) -> None:
    edit_and_look(copy.deepcopy(shared_models["llama+lora"]), tokenizer, (edit,), [1, 2, 3, 4])


@pytest.mark.parametrize("name", ["VeRA", "LoRA, experts", "FourierFT", "trainable tokens"])
def test_both_looks_see_the_same_of_other_adapters(name: str, tokenizer: Any) -> None:
    edit_and_look(CASES[name].make(), tokenizer, ANYWHERE, list(range(len(ANYWHERE))))


@pytest.mark.parametrize("name", KEEPERS)
def test_both_looks_see_what_an_object_keeps(name: str, shared_models: Any, tokenizer: Any) -> None:
    model = copy.deepcopy(shared_models["llama+lora"])
    make, change = KEEPERS[name]
    kept = make()
    # Of the classes that they are derived from, nothing else is compared.
    model.config.first, model.config.kept = [Plain(), Simple(1)], kept
    both = Both(model, tokenizer)
    both.look()
    before = both.seen
    change(kept, 5)
    both.look()
    assert both.seen[0] is not before[0]


def test_what_a_view_asks_for_is_seen(shared_models: Any, tokenizer: Any) -> None:
    model = copy.deepcopy(shared_models["llama+lora"])
    base = torch.zeros(2, 3)
    model.base_model.model.register_buffer("part", base[0])
    both = Both(model, tokenizer)
    both.look()
    assert both.quick.policy(tokenizer) == "versions"
    base.requires_grad_(True)
    assert both.quick.policy(tokenizer) == "strict"
    both.look()
    assert not both.quick._stands(both.quick._watch.tensors())  # type: ignore[union-attr]
    base.requires_grad_(False)
    both.look()


@pytest.mark.parametrize("make", RECORDS)
def test_records_are_looked_at_quickly(
    make: Callable[[], Any], shared_models: Any, tokenizer: Any
) -> None:
    model = copy.deepcopy(shared_models["llama+lora"])
    model.config.first = make()
    identity = ModelIdentity(model)
    identity.state(tokenizer)
    identity.state(tokenizer)
    if are_dicts_numbered():
        assert identity._watch._quick.sees_settings  # type: ignore[union-attr]


def test_the_look_is_quick_where_it_may_be(shared_models: Any, tokenizer: Any) -> None:
    identity = ModelIdentity(shared_models["llama+lora"])
    identity.state(tokenizer)
    identity.state(tokenizer)
    watch = identity._watch
    assert watch is not None
    if are_dicts_numbered():
        assert watch._quick.sees_settings
        assert watch._quick.sees_code
        with mock.patch.object(watch, "_looked_closer", side_effect=AssertionError):
            identity.state(tokenizer)
    if layout() is not None:
        with mock.patch.object(versions, "_versions_and_pointers", side_effect=AssertionError):
            identity.state(tokenizer)


def test_a_look_keeps_no_model(shared_models: Any, tokenizer: Any) -> None:
    model = copy.deepcopy(shared_models["llama+lora"])
    identity = ModelIdentity(model)
    identity.state(tokenizer)
    quick = identity._watch._quick  # type: ignore[union-attr]
    quick.tensors()
    del model, identity
    gc.collect()
    assert quick.tensors() is None
