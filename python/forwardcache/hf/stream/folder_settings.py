"""The settings of generation that a model's folder holds, for whoever asks for them.

``generation_config.json`` is meant for another loop than ours. What our sampling has is taken from
it; what only says how a call of transformers looks or how fast it is changes no token and is left
out; anything else would change the tokens and is refused by its name.
"""

from __future__ import annotations

from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.hf.stream.sample import SamplingOptions

_SAMPLED = ("temperature", "top_p", "top_k", "min_p")
_HONOURED = ("do_sample", "repetition_penalty", "min_length", "min_new_tokens", *_SAMPLED)
# Ids, lengths that the caller gives, the form of the answer, and how it is computed.
_NO_TOKENS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("max_length", "max_new_tokens", "transformers_version"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "use_cache", "cache_implementation", "cache_config"),
    *("max_cache_len", "prefill_chunk_size", "compile_config", "disable_compile", "low_memory"),
    "continuous_batching_config",
)
# Others change nothing as long as they have this value.
_NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "typical_p": 1.0,
    "guidance_scale": 1.0,
    "encoder_repetition_penalty": 1.0,
}


def folder_settings(causal_lm: Any, prompt_tokens: int, seed: int) -> tuple[SamplingOptions, int]:
    """How the folder's own settings draw, and how many tokens come before an end token.

    Args:
        causal_lm: The transformers model itself.
        prompt_tokens: Length of the prompt, which ``min_length`` counts.
        seed: Seed of the drawing.

    Raises:
        InvalidInputError: a setting can't be honoured; the message names it.
    """
    config = getattr(causal_lm, "generation_config", None)
    given = {} if config is None else config.to_diff_dict()
    settings = {name: value for name, value in given.items() if value is not None}
    for name, value in settings.items():
        if name[:1] != "_" and name not in (*_HONOURED, *_NO_TOKENS) and not _is_idle(name, value):
            raise InvalidInputError(
                f"the model's generation settings ask for {name}={value!r}, which isn't served: "
                "leave out use_generation_config, or that setting"
            )
    draws = bool(settings.get("do_sample", False))
    options: dict[str, Any] = {"temperature": 1.0 if draws else 0.0, "seed": seed}
    options |= {name: settings[name] for name in _SAMPLED if draws and name in settings}
    options["repetition_penalty"] = settings.get("repetition_penalty", 1.0)
    least = max(settings.get("min_new_tokens", 0), settings.get("min_length", 0) - prompt_tokens)
    return SamplingOptions.of(options), least


def _is_idle(name: str, value: Any) -> bool:
    """Whether a setting has a value that changes nothing; those of beams alone count as such."""
    if name in ("early_stopping", "length_penalty") or name.startswith(("num_assist", "assistant")):
        return True
    return not value or value == _NEUTRAL.get(name)
