"""GGUF files of every family that llama.cpp has, compared in three programs.

    python tests/oracle/gguf_families.py HEARTH FOLDER
        (torch 2.15.0, transformers 5.17.0, gguf 0.19.0, llama-cpp-python 0.3.36)

FOLDER is that of reload.py, after it ran: FOLDER/FAMILY/base are checkpoints and FOLDER/games are games. Each checkpoint is
written as llama.cpp's converter writes it, in f32. The log-probabilities of llama.cpp must be those of transformers, which shows
that the file is what llama.cpp means, and what hearth records when it plays with the file must be those of transformers too.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter, RopeScalingType, TokenType
from llama_cpp import Llama
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HEARTH, FOLDER = sys.argv[1], Path(sys.argv[2])
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "phi3": "phi3",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "smollm3": "smollm3",
    "granite": "granite",
}
INTERLEAVED = ("llama", "smollm3", "granite")
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
NORMS = {
    "plain": {"post_attention_layernorm": "ffn_norm"},
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    "olmo2": {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"},
}
MOST = 2e-4
# llama.cpp reads GELU from a table of 16-bit numbers.
MOST_OF_PEER = {"gemma3": 1e-2}


def write(base, path, architecture):
    config = json.loads((base / "config.json").read_text())
    hidden, heads, kv = (config[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    head = config.get("head_dim") or hidden // heads
    out = GGUFWriter(str(path), architecture)
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(hidden)
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(kv)
    out.add_key_length(head)
    out.add_value_length(head)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    full = rope.get("full_attention", rope)
    out.add_rope_freq_base(full["rope_theta"])
    out.add_vocab_size(config["vocab_size"])
    out.add_rope_dimension_count(int(head * full.get("partial_rotary_factor", 1.0)))
    if architecture in ("gemma3", "phi3") or "olmo3" in config["model_type"]:
        out.add_sliding_window(config["sliding_window"])
    if architecture == "granite":
        out.add_attention_scale(config["attention_multiplier"])
        out.add_embedding_scale(config["embedding_multiplier"])
        out.add_residual_scale(config["residual_multiplier"])
        out.add_logit_scale(config["logits_scaling"])
    if full["rope_type"] == "longrope":
        original = full["original_max_position_embeddings"]
        out.add_rope_scaling_orig_ctx_len(original)
        length = math.sqrt(1 + math.log(config["max_position_embeddings"] / original) / math.log(original))
        out.add_rope_scaling_attn_factors(length)
        for kind in ("long", "short"):
            out.add_tensor(f"rope_factors_{kind}.weight", np.array(full[f"{kind}_factor"], np.float32))
    if full["rope_type"] == "linear":
        out.add_rope_scaling_type(RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(full["factor"])
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    texts = {id: text for text, id in tokenizer["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    texts |= special
    ids = range(config["vocab_size"])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list([texts.get(id, f"[unused {id}]") for id in ids])
    kinds = [TokenType.CONTROL if id in special else TokenType.NORMAL if id in texts else TokenType.UNUSED for id in ids]
    out.add_token_types(kinds)
    out.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in tokenizer["model"]["merges"]])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_add_bos_token(False)
    out.add_chat_template(json.loads((base / "tokenizer_config.json").read_text())["chat_template"])
    names = PARTS | NORMS.get(architecture, NORMS["plain"])
    for name, tensor in load_file(base / "model.safetensors").items():
        numbers = tensor.float().numpy()
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            part = rest.removesuffix(".weight").removesuffix(".bias")
            end = "bias" if rest.endswith("bias") else "weight"
            if architecture in INTERLEAVED and part in ("self_attn.q_proj", "self_attn.k_proj"):
                count = heads if "q_proj" in part else kv
                halves = numbers.reshape(count, 2, head // 2, *numbers.shape[1:])
                numbers = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(numbers.shape))
            target = f"blk.{layer}.{names[part]}.{end}"
        else:
            target = {
                "model.embed_tokens.weight": "token_embd.weight",
                "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight",
            }[name]
        if architecture == "gemma3" and name.endswith("norm.weight"):
            numbers = numbers + 1
        out.add_tensor(target, numbers)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def table(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].log_softmax(-1)


for name, architecture in ARCHITECTURES.items():
    place = FOLDER / name
    path = place / "model.gguf"
    write(place / "base", path, architecture)
    model = AutoModelForCausalLM.from_pretrained(
        place / "base", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = (torch.arange(90) * 7919 % 297 + 3).tolist()
    expected = table(model, tokens)
    llama = Llama(str(path), n_ctx=256, logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False)
    llama.eval(tokens)
    theirs = torch.tensor(np.array(llama.scores[: len(tokens)])).float().log_softmax(-1)
    peer = (theirs - expected).abs().max().item()
    store = place / "gguf.jsonl"
    store.unlink(missing_ok=True)
    command = [HEARTH, "collect", "--policy", path, "--suite", FOLDER / "games", "--split", "valid_seen", "--repetitions", 1,
               "--turns", 4, "--completion", 12, "--temperature", 1, "--action-format", "auto", "--out", store]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{name}: {done.stderr}")
    off = 0.0
    for line in filter(None, store.read_text().split("\n")):
        tokens, read = [], []
        for turn in json.loads(line)["turns"]:
            tokens += turn["observation_tokens"]
            for token, logprob in zip(turn["completion_tokens"], turn["logprobs"], strict=True):
                read.append((len(tokens), token, logprob))
                tokens.append(token)
        expected = table(model, tokens)
        off = max(off, *(abs(expected[at - 1, token].item() - logprob) for at, token, logprob in read))
    print(f"{name}: llama.cpp off by {peer:.1e}, hearth by {off:.1e}", flush=True)
    if peer >= MOST_OF_PEER.get(name, MOST):
        sys.exit(f"{name}: the file is not what llama.cpp means")
    if off >= MOST:
        sys.exit(f"{name}: hearth computes something else")
