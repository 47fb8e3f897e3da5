"""Claims: what each identity policy sees, what it costs a hit, and whose bytes agree."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from forwardcache.errors import InvalidInputError
from forwardcache.hf import HFBackend
from forwardcache.hf.model import identity as identity_module
from forwardcache.hf.model import watch as watch_module
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.warm import WarmPython

PROMPT = "the quick brown fox"
ROOT = Path(__file__).parents[2]


def base_weight(backend: HFBackend) -> Any:
    return backend.model.base_model.model.lm_head.weight


def lora_weight(backend: HFBackend) -> Any:
    return next(each for name, each in backend.model.named_parameters() if "lora_B" in name)


def follows(backend: HFBackend, change: Callable[[], Any]) -> bool:
    """Whether a call after ``change`` gives what the changed model gives."""
    backend.next_token_dist(PROMPT)
    change()
    fresh = HFBackend(backend.model, backend.tokenizer).next_token_dist(PROMPT)
    return backend.next_token_dist(PROMPT) == fresh


def through_data(weight: Any) -> None:
    weight.data.mul_(1.5)


def through_numpy(weight: Any) -> None:
    weight.detach().numpy()[:] *= 1.5


def through_other_memory_and_back(weight: Any) -> None:
    """Likely to end at the address at which it began."""
    weight.data = weight.data * 1.5
    weight.data = weight.data * 1.5


WRITES = {"data": through_data, "numpy": through_numpy}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("weight_of", [base_weight, lora_weight])
def test_strict_sees_writes_that_torch_can_not_see(
    write: Any, weight_of: Any, make_backend: MakeBackend
) -> None:
    backend = make_backend(copied=True, identity="strict")
    assert follows(backend, lambda: write(weight_of(backend)))


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_versions_see_any_write_to_an_adapter(write: Any, make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    assert follows(backend, lambda: write(lora_weight(backend)))


@pytest.mark.parametrize("weight_of", [base_weight, lora_weight])
def test_versions_see_memory_that_was_freed_and_given_again(
    weight_of: Any, make_backend: MakeBackend
) -> None:
    backend = make_backend(copied=True)
    assert follows(backend, lambda: through_other_memory_and_back(weight_of(backend)))


def test_versions_do_not_claim_hidden_writes_to_base_weights(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    assert not follows(backend, lambda: through_data(base_weight(backend)))
    backend.weights_changed()
    assert follows(backend, lambda: None)


@pytest.mark.parametrize("policy", ["versions", "strict"])
def test_fifty_edits_of_a_single_number_are_all_seen(
    policy: Any, make_backend: MakeBackend
) -> None:
    backend = make_backend(copied=True, identity=policy)
    tensors = [*backend.model.parameters(), *backend.model.buffers()]
    generator = np.random.default_rng(5)
    identities = {backend.identity()}
    for _ in range(50):
        tensor = tensors[generator.integers(len(tensors))]
        index = int(generator.integers(tensor.numel()))
        with torch.no_grad():
            flat = tensor.data.view(-1) if policy == "strict" else tensor.view(-1)
            flat[index] = torch.nextafter(flat[index], torch.tensor(torch.inf))
        identities.add(backend.identity())
    assert len(identities) == 51


def make_trainable(backend: HFBackend) -> None:
    base_weight(backend).requires_grad_(True)


def train_a_part(backend: HFBackend) -> None:
    backend.model.base_model.model.model.layers[0].mlp.train()


@pytest.mark.parametrize("prepare", [make_trainable, train_a_part])
def test_versions_become_strict_where_weights_may_be_trained(
    prepare: Any, make_backend: MakeBackend
) -> None:
    backend = make_backend(copied=True)
    policies: list[str] = [backend.identity_policy]
    prepare(backend)
    policies.append(backend.identity_policy)
    assert policies == ["versions", "strict"]
    assert follows(backend, lambda: through_data(base_weight(backend)))


def test_what_was_written_while_training_is_not_served_afterwards(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(copied=True)

    def train() -> None:
        backend.model.train()
        backend.next_token_dist("something else")
        through_data(base_weight(backend))
        backend.model.eval()

    assert follows(backend, train)


def test_a_loaded_model_is_frozen_and_needs_no_hashing(folders: Any) -> None:
    for adapter in (None, folders["adapter"]):
        backend = HFBackend.load(folders["model"], adapter)
        assert backend.identity_policy == "versions"


def test_a_model_made_in_inference_mode_is_strict(tokenizer: Any) -> None:
    with torch.inference_mode():
        model = tiny.llama()
    assert HFBackend(model, tokenizer).identity_policy == "strict"


def test_hashing_much_at_every_call_is_said_once(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_module, "_WARNED_BYTES", 1)
    backend = make_backend("llama")
    with pytest.warns(UserWarning, match="requires_grad_"):
        backend.next_token_dist(PROMPT)
    backend.next_token_dist("hello")


def test_a_label_stands_for_what_tensors_hold_and_for_nothing_else(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(copied=True, identity="label", identity_label="run 7, step 100")
    assert not follows(backend, lambda: through_data(lora_weight(backend)))
    layer = tiny.lora_layers(backend.model)[0]
    assert follows(backend, lambda: layer.scaling.update(default=9.0))
    assert not follows(backend, lambda: through_data(lora_weight(backend)))
    backend.weights_changed()
    assert follows(backend, lambda: None)


@pytest.mark.parametrize(
    "options",
    [
        {"identity": "loose"},
        {"identity": "label"},
        {"identity": "label", "identity_label": ""},
        {"identity_label": "a"},
    ],
)
def test_a_policy_needs_its_label_and_no_other_has_one(
    options: Any, make_backend: MakeBackend
) -> None:
    with pytest.raises(InvalidInputError, match="identity"):
        make_backend(**options)


POLICIES: dict[str, dict[str, Any]] = {
    "versions": {},
    "strict": {},
    "label": {"identity_label": "a"},
}
_OTHER_PROCESS = """
import json, sys
from forwardcache.hf import HFBackend
for policy, options in json.loads(sys.argv[3]).items():
    backend = HFBackend.load(sys.argv[1], sys.argv[2], identity=policy, **options)
    print(policy, backend.identity().hex())
"""


@pytest.fixture(scope="module")
def elsewhere(folders: Any, warm: WarmPython) -> dict[str, str]:
    """The identity under each policy in another process."""
    arguments = str(folders["model"]), str(folders["adapter"]), json.dumps(POLICIES)
    command = [str(warm.python), "-c", _OTHER_PROCESS, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize("policy", POLICIES)
def test_another_process_gives_the_same_bytes_but_under_versions(
    policy: Any, folders: Any, elsewhere: dict[str, str]
) -> None:
    arguments = str(folders["model"]), str(folders["adapter"])
    here = HFBackend.load(*arguments, identity=policy, **POLICIES[policy])
    assert (elsewhere[policy] == here.identity().hex()) == (policy != "versions")


def identity_after(change: Callable[[Any], Any], tokenizer: Any) -> bytes:
    model = tiny.with_lora(tiny.llama())
    return HFBackend(change(model) or model, tokenizer, identity="strict").identity()


def edit_config(model: Any) -> None:
    model.config.rms_norm_eps = 1e-3


def rescale(model: Any) -> None:
    for layer in tiny.lora_layers(model):
        layer.scaling["default"] *= 2.0


def use_eager_kernels(model: Any) -> None:
    model.config._attn_implementation = "eager"


DIFFERENT: dict[str, Callable[[Any], Any]] = {
    "another weight": lambda model: through_data(model.base_model.model.lm_head.weight),
    "another buffer": lambda model: through_data(model.base_model.model.model.rotary_emb.inv_freq),
    "another scaling": rescale,
    "another dtype": lambda model: model.to(torch.bfloat16),
    "another configuration": edit_config,
    "other kernels": use_eager_kernels,
    "a merged adapter": lambda model: model.merge_adapter(),
    "a hook": lambda model: model.register_forward_hook(lambda *_: None) and None,
    "no adapter": lambda model: model.unload(),
}


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_a_strict_identity_differs_with_all_that_decides_a_value(
    change: Any, tokenizer: Any
) -> None:
    same = identity_after(lambda _: None, tokenizer)
    assert identity_after(lambda _: None, tokenizer) == same
    assert identity_after(change, tokenizer) != same


def test_a_strict_identity_differs_with_the_tokenizer() -> None:
    def of(tokenizer: Any) -> bytes:
        return identity_after(lambda _: None, tokenizer)

    same, bare, more, padding = (tiny.tokenizer(bos=bos) for bos in (True, False, True, True))
    more.add_tokens(["quick"])
    padding(["a", "a a"], truncation=True, max_length=4)
    assert of(same) == of(tiny.tokenizer()) == of(padding)
    assert len({of(same), of(bare), of(more)}) == 3


def test_backends_with_equal_content_share_values_under_strict(make_backend: MakeBackend) -> None:
    first = make_backend(copied=True, identity="strict")
    second = make_backend(copied=True, identity="strict", instrumentation=first.instrumentation)
    value = first.next_token_dist(PROMPT)
    assert second.next_token_dist(PROMPT) is value
    through_data(base_weight(second))
    assert second.next_token_dist(PROMPT) != value
    through_data(base_weight(first))
    assert first.next_token_dist(PROMPT) is second.next_token_dist(PROMPT)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The walks over a model's modules, by name."""
    seen: list[str] = []

    def recording(kind: Any, name: str) -> None:
        walk = getattr(kind, name)

        def recorded(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return walk(*arguments, **options)

        monkeypatch.setattr(kind, name, recorded)

    for name in ("modules", "named_modules", "parameters", "named_parameters", "named_children"):
        recording(nn.Module, name)
    recording(watch_module, "walk")
    return seen


def test_a_hit_walks_no_module_and_hashes_nothing(
    make_backend: MakeBackend, walks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    views = (backend.as_base, backend.as_finetuned, lambda: backend.as_null_adapter(3))
    for open_view in views:
        with open_view() as view:
            view.next_token_dist_batch(list(tiny.PROMPTS))
    assert walks
    computed = backend.stats.forward_passes
    walks.clear()
    monkeypatch.setattr(identity_module, "checksums", None)
    for open_view in views:
        with open_view() as view:
            view.next_token_dist_batch(list(tiny.PROMPTS))
            view.next_token_dist(tiny.PROMPTS[0])
    assert walks == []
    assert backend.stats.forward_passes == computed


def test_hits_touch_no_weight(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    views = (
        backend.as_base,
        backend.as_finetuned,
        lambda: backend.as_scaled_adapter(0.3),
        lambda: backend.as_null_adapter(1),
    )
    for open_view in views:
        with open_view() as view:
            view.rolling_logprob_batch(list(tiny.PROMPTS))
    written: list[str] = []
    tensors = [*backend.model.parameters(), *backend.model.buffers()]
    before = [(each._version, each.data_ptr(), id(each)) for each in tensors]
    state = tiny.frozen_state(backend.model)
    computed = backend.stats.forward_passes
    for module in backend.model.modules():
        module.__class__ = _recording(type(module), written)
    for open_view in views:
        with open_view() as view:
            view.rolling_logprob_batch(list(tiny.PROMPTS))
    assert written == []
    assert backend.stats.forward_passes == computed
    for module in backend.model.modules():
        object.__setattr__(module, "__class__", type(module).__bases__[0])
    assert [(each._version, each.data_ptr(), id(each)) for each in tensors] == before
    assert tiny.frozen_state(backend.model) == state


def _recording(kind: Any, written: list[str]) -> Any:
    def set_attribute(self: Any, name: str, value: Any) -> None:
        written.append(name)
        kind.__setattr__(self, name, value)

    return type(kind.__name__, (kind,), {"__setattr__": set_attribute, "__module__": "tests"})
