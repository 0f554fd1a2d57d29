"""What PEFT makes of an adapter that a lesson with `lora` wrote, and an adapter of PEFT's own to be merged here.

    python agent/tests/oracle/peft_adapter.py check BASE LESSON
    python agent/tests/oracle/peft_adapter.py make BASE ADAPTER
    hearth model import BASE MERGED --adapter ADAPTER
    python agent/tests/oracle/peft_adapter.py compare BASE ADAPTER MERGED

(torch 2.9.1, transformers 5.17.0, peft 0.21.2, accelerate 1.15.0)

`check` loads BASE with LESSON/adapter over it (and, where there is one, with LESSON/value/adapter), and compares the logits
with those of the merged model in LESSON (for the value network: of its trunk in LESSON/value). `make` draws an adapter of
rank 4 for all seven matrices over BASE, none of its factors 0. `compare` does as `check` with a folder for each.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MOST = 1e-4


def opened(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits(model):
    size = model.config.vocab_size
    tokens = (torch.arange(2 * 40) * 7919 % size).reshape(2, 40)
    with torch.inference_mode():
        return model(tokens).logits


def compared(what, base, adapter, merged):
    plain = logits(opened(base))
    adapted = PeftModel.from_pretrained(opened(base), adapter)
    off = (logits(adapted) - logits(opened(merged))).abs().max().item()
    moved = (logits(adapted) - plain).abs().max().item()
    print(f"{what}: logits up to {plain.abs().max().item():.3f}, moved by up to {moved:.2e}, off by up to {off:.2e}")
    if not (off < MOST and moved > 10 * MOST):
        sys.exit(f"{what}: PEFT computes something else, or nothing was learned")


command, base, *rest = sys.argv[1:]
if command == "check":
    lesson = Path(rest[0])
    compared("policy", base, lesson / "adapter", lesson)
    if (lesson / "value/adapter").exists():
        compared("value network's trunk", base, lesson / "value/adapter", lesson / "value")
elif command == "make":
    torch.manual_seed(3)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, use_rslora=True, target_modules=TARGETS)
    model = get_peft_model(opened(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(rest[0])
elif command == "compare":
    compared("PEFT's adapter", base, rest[0], rest[1])
else:
    sys.exit(__doc__)
