"""Every family of checkpoints through hearth and back into transformers.

    python tests/oracle/reload.py HEARTH TOKENIZER FOLDER [FAMILY ...]      (torch 2.15.0, transformers 5.17.0, peft 0.21.2)

HEARTH is the binary, TOKENIZER a folder with a tokenizer.json and a tokenizer_config.json of at most 304 tokens, FOLDER an
empty folder. For each family (default: all) it makes a random checkpoint, describes it, plays three games, trains one update of SFT on them,
plays again with what was trained, and loads that in transformers: every tensor must be used, the logits must have moved, and
the log-probabilities that hearth recorded at play must be those of transformers. The same again with LoRA, whose adapter must
load in PEFT over the first checkpoint and give the logits of the merged model.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers as hf
from peft import PeftModel

HEARTH, TOKENIZER, FOLDER = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
SIZES = {
    "vocab_size": 304,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
FAMILIES = {
    "llama": hf.LlamaConfig(**SIZES),
    "qwen2": hf.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": hf.Qwen3Config(**SIZES, head_dim=12, tie_word_embeddings=True),
    "mistral": hf.MistralConfig(**SIZES, head_dim=16, sliding_window=40),
    # llama.cpp fixes the pattern and the factor of the scores.
    "gemma3": hf.Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 6}, head_dim=16, query_pre_attn_scalar=16, sliding_window=40
    ),
    "phi3": hf.Phi3Config(
        **SIZES, partial_rotary_factor=2 / 3, original_max_position_embeddings=1024, rope_scaling=LONG, sliding_window=2048
    ),
    "olmo2": hf.Olmo2Config(**SIZES),
    "olmo3": hf.Olmo3Config(**SIZES, sliding_window=40),
    "smollm3": hf.SmolLM3Config(**SIZES),
    "granite": hf.GraniteConfig(
        **SIZES, attention_multiplier=0.2, embedding_multiplier=3.0, residual_multiplier=0.3, logits_scaling=2.0
    ),
}
JOB = """name = "job"
from = "collector"
data = ["rollouts"]
optimizer = { batch = 3, updates = 1, learning_rate = 1e-2 }
algorithm = { kind = "sft", targets = "transcript" }
"""
LORA = "lora = { rank = 3, alpha = 6 }\n"
MOST = 2e-4


def hearth(*words):
    done = subprocess.run([HEARTH, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"hearth {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def opened(folder):
    model, info = hf.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    left = {key: value for key, value in info.items() if value}
    if left:
        sys.exit(f"{folder}: {left}")
    return model.eval()


def logits(model):
    with torch.inference_mode():
        return model((torch.arange(2 * 90) * 7919 % 304).reshape(2, 90)).logits


def play(model, out):
    hearth("collect", "--policy", model, "--suite", FOLDER / "games", "--split", "valid_seen", "--repetitions", 1,
           "--turns", 4, "--completion", 12, "--temperature", 1, "--action-format", "auto", "--out", out)  # fmt: skip


def off_at_play(model, store):
    """The largest difference between recorded log-probabilities and those of transformers."""
    worst, count = 0.0, 0
    for line in filter(None, store.read_text().split("\n")):
        tokens, places, recorded = [], [], []
        for turn in json.loads(line)["turns"]:
            tokens += turn["observation_tokens"]
            for token, logprob in zip(turn["completion_tokens"], turn["logprobs"], strict=True):
                places.append(len(tokens))
                recorded.append(logprob)
                tokens.append(token)
        with torch.inference_mode():
            table = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        for place, logprob in zip(places, recorded, strict=True):
            worst = max(worst, abs(table[place - 1, tokens[place]].item() - logprob))
        count += len(places)
    return worst, count


def checked(what, off):
    if off >= MOST:
        sys.exit(f"{what}: off by {off}")
    return f"{off:.1e}"


if not (FOLDER / "games").exists():
    hearth("scenarios", "generate", FOLDER / "games", "--size", "small", "--train", 2, "--seen", 3, "--unseen", 1)
for name, config in FAMILIES.items():
    if sys.argv[4:] and name not in sys.argv[4:]:
        continue
    place = FOLDER / name
    torch.manual_seed(1)
    model = hf.AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            is_norm = path.endswith("norm.weight")
            parameter.normal_(parameter.mean().round().item() if is_norm else 0.0, 0.2)
    model.save_pretrained(place / "base")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, place / "base")
    hearth("model", "info", place / "base")
    play(place / "base", place / "played.jsonl")
    before, tokens = off_at_play(opened(place / "base"), place / "played.jsonl")
    report = [f"played {tokens} tokens", checked(f"{name} at play", before)]
    for kind, text in (("all", JOB), ("lora", JOB + LORA)):
        (place / f"{kind}.toml").write_text(text)
        hearth("train", place / f"{kind}.toml", "--data", place / "played.jsonl", "--from", place / "base", "--out", place / kind)
        trained = opened(place / kind)
        moved = (logits(trained) - logits(opened(place / "base"))).abs().max().item()
        if moved < 10 * MOST:
            sys.exit(f"{name}, {kind}: nothing was learned")
        play(place / kind, place / f"{kind}.jsonl")
        after, _ = off_at_play(trained, place / f"{kind}.jsonl")
        report.append(f"{kind}: moved {moved:.2f}, at play {checked(f'{name}, {kind} at play', after)}")
    adapted = PeftModel.from_pretrained(opened(place / "base"), place / "lora" / "adapter").eval()
    off = (logits(adapted) - logits(opened(place / "lora"))).abs().max().item()
    report.append(f"PEFT {checked(f'{name}, PEFT', off)}")
    print(f"{name}: {'; '.join(report)}", flush=True)
