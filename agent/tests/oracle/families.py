"""Logits and greedy continuations of tiny decoders of every family, by transformers (5.17.0, torch 2.9.1), in float32.

    python families.py > ../golden/families.json

Weights come from a formula that the Rust test repeats, so that no checkpoint is kept. MiniCPM is not part of
transformers; Granite computes the same with other names for its scales.
"""

import json
import pathlib
import sys

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "src" / "model" / "reading"))
from modeling_hearth import HearthConfig, HearthForCausalLM  # noqa: E402

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
# The goal is 3, 3, 95, and 3 occurs again.
GOAL = {"marker": [17, 42], "end": [60], "ignored": [95]}
CONVOLUTION = {"width": 4, "places": ["attention_input", "mlp_input"]}
EVERYWHERE = {"width": 3, "places": ["attention_input", "query_key_value", "mlp_input", "gate_up"]}
PROMPT = [1, 17, 42, 3, 3, 95, 60, 8, 29, 77, 5, 11]
HEARTH_PROMPT = [*PROMPT, 3, 77, 95, 29, 3]


def llama(**more):
    return LlamaConfig(**{**SIZES, **more})


CASES = {
    "llama": llama(),
    "llama, tied, θ 10⁵": llama(tie_word_embeddings=True, rope_theta=1e5, rms_norm_eps=1e-5),
    "llama, wide heads": llama(head_dim=12),
    "llama, linear": llama(rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama, llama3": llama(
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    ),
    "llama, yarn": llama(rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    "llama, longrope": llama(
        max_position_embeddings=256,
        rope_scaling={
            "rope_type": "longrope",
            "factor": 2.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
            "original_max_position_embeddings": 128,
        },
    ),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2, tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=12),
    "qwen3, tied": Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True, rope_theta=1e6),
    "mistral": MistralConfig(**SIZES, head_dim=12, sliding_window=None),
    "mistral, window": MistralConfig(**SIZES, sliding_window=128),
    "mistral, short window": MistralConfig(**SIZES, sliding_window=7),
    "qwen2, some windows": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        head_dim=12,
        query_pre_attn_scalar=20,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gemma3, untied": Gemma3TextConfig(**SIZES, head_dim=8, tie_word_embeddings=False, sliding_window=64),
    "phi3": Phi3Config(**SIZES, sliding_window=9),
    "phi3, longrope": Phi3Config(
        **{**SIZES, "hidden_size": 48, "tie_word_embeddings": True},
        partial_rotary_factor=2 / 3,
        original_max_position_embeddings=128,
        rope_scaling={
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
        },
    ),
    "olmo2": Olmo2Config(**SIZES),
    "olmo3": Olmo3Config(
        **SIZES,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        rope_theta=1e4,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0]),
    "granite": GraniteConfig(
        **SIZES,
        embedding_multiplier=6.0,
        residual_multiplier=0.22,
        attention_multiplier=0.3,
        logits_scaling=3.0,
        tie_word_embeddings=True,
    ),
    "hearth, goal match": HearthConfig(**SIZES, goal_match=GOAL),
    "hearth, n-grams": HearthConfig(**SIZES, ngram_embedding=[1, 2]),
    "hearth, convolution": HearthConfig(**SIZES, convolution=CONVOLUTION),
    "hearth, all, tied": HearthConfig(
        **SIZES, tie_word_embeddings=True, goal_match=GOAL, ngram_embedding=[1], convolution=EVERYWHERE
    ),
    "minicpm": GraniteConfig(
        **SIZES,
        embedding_multiplier=12.0,
        residual_multiplier=1.4 / 2**0.5,
        attention_multiplier=8**-0.5,
        logits_scaling=32 / 8,
    ),
}


def fill(model):
    """Every weight by its place: tensor k of the names in order, element i."""
    tied = model.config.tie_word_embeddings
    parameters = dict(model.named_parameters())
    names = sorted(name for name in parameters if not (tied and name == "lm_head.weight"))
    for k, name in enumerate(names):
        tensor = parameters[name]
        i = torch.arange(tensor.numel(), dtype=torch.int64)
        noise = ((k * 7919 + i) * 2654435761 % 2**32).double() / 2**32 - 0.5
        if name.endswith("norm.weight"):
            values = (0.0 if model.config.model_type == "gemma3_text" else 1.0) + 0.4 * noise
        elif tensor.dim() == 1:
            values = 0.5 * noise
        else:
            values = 3.0 * noise / tensor.shape[1] ** 0.5
        tensor.data = values.float().reshape(tensor.shape)


def record(name, config):
    if config.model_type == "hearth":
        model = HearthForCausalLM(config).float().eval()
    else:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    fill(model)
    prompt = HEARTH_PROMPT if config.model_type == "hearth" else PROMPT
    keys = json.loads(config.to_json_string(use_diff=False))
    if name == "minicpm":
        keys = {
            **keys,
            "model_type": "minicpm",
            "scale_emb": 12.0,
            "scale_depth": 1.4,
            "dim_model_base": 8,
        }
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0]
        tokens, gaps = list(prompt), []
        for _ in range(64):
            best = model(torch.tensor([tokens])).logits[0, -1].topk(2)
            gaps.append(round((best.values[0] - best.values[1]).item(), 6))
            tokens.append(best.indices[0].item())
    return {
        "name": name,
        "config": keys,
        "prompt": prompt,
        "first": [round(x, 7) for x in logits[0].tolist()],
        "last": [round(x, 7) for x in logits[-1].tolist()],
        "continuation": tokens[len(prompt) :],
        "gaps": gaps,
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cases = [record(name, config) for name, config in CASES.items()]
    json.dump(cases, sys.stdout, ensure_ascii=False, indent=None, separators=(",", ":"))
    print()
