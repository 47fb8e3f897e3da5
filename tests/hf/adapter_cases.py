"""Adapters of PEFT on tiny models: how each is made, and which views of it must be exact.

``CASES`` has a case a name. A view that isn't in its ``refused`` must give what PEFT's own model
gives in plain forwards (``ft``), and what an untouched copy of the base model gives (``base``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.arrow import create_arrow_model
from peft.tuners.lora.config import MontecloraConfig
from transformers import MixtralConfig, MixtralForCausalLM

from tests.hf import tiny

# No view at all: the model itself is refused.
WHOLE = "whole"
# The views that every case is asked for.
KINDS = ("base", "ft", "scaled", "null")


@dataclass(frozen=True)
class Case:
    """An adapter on a model.

    Attributes:
        make: The adapted model, in evaluation mode; the same every time.
        base: The model below it, as it was before.
        refused: For each kind of view that is refused, or whose texts are, words of the reason;
            under ``WHOLE`` those with which the model itself is.
    """

    make: Callable[[], Any]
    base: Callable[[], Any] = tiny.llama
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def exact(self) -> tuple[str, ...]:
        """The kinds of view that must be exact."""
        return tuple(kind for kind in KINDS if not {kind, WHOLE} & set(self.refused))


def tied_llama() -> Any:
    """The tiny Llama with one tensor for embedding and head."""
    model = tiny.llama()
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def mixtral() -> Any:
    """A mixture of four experts, whose weights are one parameter a projection."""
    torch.manual_seed(4)
    config = MixtralConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=tiny.CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = tiny.sharpened(MixtralForCausalLM(config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 3:
                parameter.mul_(8.0)
    return model.eval()


def trained(model: Any, std: float = 0.1) -> Any:
    """``model`` with noise on everything that training would change, in evaluation mode."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=std)
    return model.eval().requires_grad_(False)


def adapted(
    config: Any, base: Callable[[], Any] = tiny.llama, *, std: float = 0.1, **options: Any
) -> Any:
    """The base model with a trained adapter of that configuration."""
    torch.manual_seed(3)
    return trained(get_peft_model(base(), config, **options), std)


# How a case says that a view is refused; the reason given to the user has these words.
_NOT_LORA = "not LoRA"
_DORA = "DoRA"
_MODULES = "modules_to_save"
_TOKENS = "trained tokens"


def _beyond(reason: str) -> dict[str, str]:
    return {"scaled": reason, "null": reason}


def _only_ft(reason: str) -> dict[str, str]:
    return {"base": reason, **_beyond(reason)}


def _case(
    kind: str,
    base: Callable[[], Any] = tiny.llama,
    *,
    refused: Mapping[str, str] | None = None,
    std: float = 0.1,
    **options: Any,
) -> Case:
    """A case of the configuration class ``kind``; on the Llama's q and v unless told otherwise."""
    make_config = getattr(peft, kind)
    return Case(lambda: adapted(make_config(**options), base, std=std), base, refused or {})


_QV = ["q_proj", "v_proj"]


def _lora(
    base: Callable[[], Any] = tiny.llama,
    refused: Mapping[str, str] | None = None,
    **options: Any,
) -> Case:
    merged: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": _QV} | options
    return _case("LoraConfig", base, refused=refused, **merged)


def _other(kind: str, *, std: float = 0.1, **options: Any) -> Case:
    """A method that adds something else than A and B: ``base`` and ``ft`` only."""
    merged: dict[str, Any] = {"target_modules": _QV} | options
    return _case(kind, refused=_beyond(_NOT_LORA), std=std, **merged)


def _prompts(kind: str, **options: Any) -> Case:
    merged: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3} | options
    if kind == "CPTConfig":
        merged = {"task_type": "CAUSAL_LM", "cpt_token_ids": [3, 4, 5]}
    name = {
        "PromptTuningConfig": "PROMPT_TUNING",
        "PromptEncoderConfig": "P_TUNING",
        "PrefixTuningConfig": "PREFIX_TUNING",
        "MultitaskPromptTuningConfig": "MULTITASK_PROMPT_TUNING",
        "CPTConfig": "CPT",
        "CartridgeConfig": "CARTRIDGE",
    }[kind]
    return _case(kind, refused={WHOLE: name}, **merged)


def _merged() -> Any:
    model = adapted(LoraConfig(r=4, target_modules=_QV))
    model.merge_adapter()
    return model


def _two_active() -> Any:
    model = adapted(LoraConfig(r=4, target_modules=_QV))
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "o_proj"]))
    model.base_model.set_adapter(["default", "other"])
    return trained(model)


def _weighted() -> Any:
    model = _two_active()
    model.add_weighted_adapter(["default", "other"], [0.7, 0.4], "sum", combination_type="cat")
    model.set_adapter("sum")
    return model.eval().requires_grad_(False)


def _mixed() -> Any:
    model = adapted(LoraConfig(r=4, target_modules=_QV), mixed=True)
    model.add_adapter("other", peft.LoHaConfig(r=2, target_modules=["o_proj"], init_weights=False))
    model.set_adapter(["default", "other"])
    return model.eval().requires_grad_(False)


def _arrow() -> Any:
    with TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("one", "two")]
        for seed, path in enumerate(paths):
            model = adapted(LoraConfig(r=4, target_modules=_QV), std=0.1 * (seed + 1))
            cast(PeftModel, model).save_pretrained(path)
        config = peft.ArrowConfig(top_k=1, rng_seed=1)
        model = create_arrow_model(tiny.llama(), paths, config).eval().requires_grad_(False)
    # PEFT makes its prototypes in the first forward.
    tiny.logprobs_after(model, [1, 2])
    return model


def _xlora() -> Any:
    base = tiny.llama()
    base.config.use_cache = False
    with TemporaryDirectory() as folder:
        cast(PeftModel, adapted(LoraConfig(r=4, target_modules=_QV))).save_pretrained(folder)
        config = peft.XLoraConfig(
            task_type="CAUSAL_LM", hidden_size=32, adapters={"0": folder}, xlora_depth=1
        )
        return get_peft_model(base, config).eval().requires_grad_(False)


def _prompts_on_lora() -> Any:
    config = LoraConfig(r=4, target_modules=_QV)
    inner = peft.inject_adapter_in_model(config, tiny.llama())
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    return get_peft_model(inner, prompts).eval().requires_grad_(False)


def _four_layers() -> Any:
    return tiny.llama(layers=4)


_EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]

LORA: dict[str, Case] = {
    "LoRA": _lora(),
    "LoRA, all linear": _lora(target_modules="all-linear"),
    "LoRA, GPT-2": _lora(tiny.gpt2, target_modules=["c_attn", "c_proj"]),
    "LoRA, dropout": _lora(lora_dropout=0.5),
    "LoRA, rank and alpha patterns": _lora(
        rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 16}
    ),
    "rsLoRA": _lora(use_rslora=True),
    "LoRA, some layers": _lora(layers_to_transform=[1]),
    "LoRA, excluded modules": _lora(exclude_modules=["layers.0.self_attn.q_proj"]),
    "LoRA, gaussian": _lora(init_lora_weights="gaussian"),
    "LoRA, orthogonal": _lora(init_lora_weights="orthogonal"),
    "LoRA with biases": _lora(tiny.gpt2, lora_bias=True, target_modules=["c_attn"]),
    "LoRA, embedding": _lora(target_modules=["embed_tokens", "q_proj"]),
    "LoRA, head": _lora(target_modules=["lm_head"]),
    "LoRA, embedding and head": _lora(target_modules=["embed_tokens", "lm_head"]),
    "LoRA, embedding and head tied": _lora(
        tied_llama, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True
    ),
    "LoRA, experts": _lora(mixtral, target_modules=[], target_parameters=_EXPERTS),
    "LoRA, experts' first projection": _lora(
        mixtral, target_modules=[], target_parameters=_EXPERTS[:1]
    ),
    "LoRA, router": _lora(mixtral, target_modules=["gate"]),
    "LoRA, biases asked for of a model without": _lora(bias="all"),
    "LoRA, trained biases": _lora(
        tiny.gpt2, _only_ft("biases"), bias="all", target_modules=["c_attn"]
    ),
    "DoRA": _lora(refused=_beyond(_DORA), use_dora=True),
    "DoRA, GPT-2": _lora(tiny.gpt2, _beyond(_DORA), use_dora=True, target_modules=["c_attn"]),
    "DoRA, embedding": _lora(
        refused=_beyond(_DORA), use_dora=True, target_modules=["embed_tokens"]
    ),
    "LoRA, head saved": _lora(refused=_beyond(_MODULES), modules_to_save=["lm_head"]),
    "LoRA, embedding saved": _lora(refused=_beyond(_MODULES), modules_to_save=["embed_tokens"]),
    "LoRA, norm saved": _lora(refused=_beyond(_MODULES), modules_to_save=["norm"]),
    "LoRA, trained tokens": _lora(refused=_beyond(_TOKENS), trainable_token_indices=[3, 4]),
    "LoRA, trained tokens tied": _lora(
        tied_llama, _beyond(_TOKENS), trainable_token_indices=[3, 4]
    ),
    "PiSSA": _lora(refused=_only_ft("pissa"), init_lora_weights="pissa"),
    "OLoRA": _lora(refused=_only_ft("olora"), init_lora_weights="olora"),
    "LoRA, layers repeated": _lora(
        _four_layers, _only_ft("layer_replication"), layer_replication=[(0, 4), (2, 4)]
    ),
    "LoRA merged": Case(_merged, refused=_only_ft("merged")),
    "LoRA, two active": Case(_two_active),
    "LoRA, weighted": Case(_weighted),
    "LoRA and LoHa": Case(_mixed, refused=_beyond(_NOT_LORA)),
    "MiCA": _lora(init_lora_weights="mica", refused=_beyond("MiCA")),
    "MonteCLoRA": _lora(monteclora_config=MontecloraConfig(), refused=_beyond("Monteclora")),
    "VeLoRA": _lora(velora_config=peft.VeloraConfig(num_groups=4), refused=_beyond("Velora")),
    "BD-LoRA": _lora(
        use_bdlora=peft.BdLoraConfig(target_modules_bd_b=_QV, nblocks=2),
        refused=_beyond("BdLora"),
    ),
    "Arrow": Case(_arrow, refused=_beyond("Arrow")),
    "KaSA": _lora(kasa_config=peft.KasaConfig(), refused=_only_ft("KaSA")),
    "aLoRA": _lora(
        refused={"ft": "causal", **_beyond("ALora")},
        alora_invocation_tokens=[5, 6],
        task_type="CAUSAL_LM",
    ),
    "AdaLoRA": _case(
        "AdaLoraConfig",
        refused={"null": "lora_E"},
        target_modules=_QV,
        init_r=4,
        target_r=2,
        total_step=10,
        tinit=1,
        tfinal=2,
    ),
}

OTHER: dict[str, Case] = {
    "AdaMSS": _other("AdamssConfig", r=8, num_subspaces=2),
    "BEFT": _other("BeftConfig"),
    "BOFT": _other("BOFTConfig", boft_block_size=4),
    "C3A": _other("C3AConfig", block_size=16),
    "DEFT": _other("DeftConfig"),
    "DeLoRA": _other("DeloraConfig"),
    "FourierFT": _other("FourierFTConfig", n_frequency=50),
    "FRoD": _other("FrodConfig"),
    "GLoRA": _other("GloraConfig"),
    "GraLoRA": _other("GraloraConfig"),
    "HiRA": _other("HiraConfig"),
    "HRA": _other("HRAConfig"),
    "IA3": _other(
        "IA3Config", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    # Its router averages over a forward's tokens, so that only a prompt's last one has a value.
    "LILY": _case("LilyConfig", refused={"ft": "causal", **_beyond(_NOT_LORA)}, target_modules=_QV),
    "LN tuning": _other("LNTuningConfig", target_modules=["input_layernorm", "norm"]),
    "LoHa": _other("LoHaConfig"),
    "LoKr": _other("LoKrConfig"),
    "MiSS": _other("MissConfig", r=8),
    "MiSS, bat": _other("MissConfig", r=8, init_weights="bat"),
    "OFT": _other("OFTConfig", oft_block_size=4, r=0),
    "OSF": _other("OSFConfig"),
    "PEANuT": _other("PeanutConfig"),
    "PSOFT": _other("PsoftConfig", r=8),
    "PVeRA": _other("PveraConfig", r=8),
    "RandLoRA": _other("RandLoraConfig", r=4),
    "RoAd": _other("RoadConfig", group_size=8),
    "Shadow": _case("ShadowConfig", refused=_beyond(_NOT_LORA)),
    "SHiRA": _other("ShiraConfig", r=4),
    "Supertuning": _other("SupertuningConfig"),
    "TinyLoRA": _other("TinyLoraConfig"),
    "trainable tokens": Case(
        lambda: adapted(peft.TrainableTokensConfig(token_indices=[5, 9, 40])),
        refused=_beyond(_TOKENS),
    ),
    "trainable tokens, tied": Case(
        lambda: adapted(peft.TrainableTokensConfig(token_indices=[5, 9, 40]), tied_llama),
        tied_llama,
        _beyond(_TOKENS),
    ),
    "UniLoRA": _other("UniLoraConfig"),
    "VB-LoRA": _other("VBLoRAConfig", vector_length=16, num_vectors=16),
    "VeRA": _other("VeraConfig", r=8),
    "WaveFT": _other("WaveFTConfig", n_frequency=50),
}

NOT_TAKEN: dict[str, Case] = {
    "PVeRA, sampled": _case(
        "PveraConfig",
        refused={"ft": "sample_at_inference", **_beyond(_NOT_LORA)},
        r=8,
        target_modules=_QV,
        sample_at_inference=True,
    ),
    "Poly": _case("PolyConfig", refused={WHOLE: "POLY"}, target_modules=_QV),
    "adaption prompt": _case(
        "AdaptionPromptConfig",
        refused={WHOLE: "ADAPTION_PROMPT"},
        adapter_len=4,
        adapter_layers=1,
        task_type="CAUSAL_LM",
    ),
    "X-LoRA": Case(_xlora, refused={WHOLE: "XLORA"}),
    "prompt tuning": _prompts("PromptTuningConfig"),
    "prompt tuning, head saved": _prompts("PromptTuningConfig", modules_to_save=["lm_head"]),
    "prompt tuning around LoRA": Case(_prompts_on_lora, refused={WHOLE: "PROMPT_TUNING"}),
    "multitask prompt tuning": _prompts("MultitaskPromptTuningConfig", num_tasks=2),
    "p-tuning": _prompts("PromptEncoderConfig"),
    "prefix tuning": _prompts("PrefixTuningConfig"),
    "CPT": _prompts("CPTConfig"),
    "cartridge": _prompts("CartridgeConfig"),
}

CASES: dict[str, Case] = {**LORA, **OTHER, **NOT_TAKEN}
