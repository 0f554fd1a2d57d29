"""What transformers makes of SmolLM2-135M-Instruct in the folder that `hearth model pull smollm2` writes: token ids and
the rendered chat of household texts, logits and a greedy continuation. Writes agent/tests/golden/smollm2.json.

    python agent/tests/oracle/smollm2.py FOLDER      (torch 2.9.1, transformers 5.17.0)
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

OPENING = (
    "You are in the middle of a room. Looking quickly around you, you see a bed 1, a desk 1, a drawer 2, a drawer 1, "
    "a garbagecan 1, a safe 1, a shelf 10, and a sidetable 1.\n\nYour task is to: examine the basketball with the desklamp."
)
TEXTS = [
    OPENING,
    "You arrive at desk 1. On the desk 1, you see a alarmclock 1, a basketball 1, a cd 3, and a mug 12.",
    "Nothing happens.",
    "The fridge 1 is closed.",
    "You open the drawer 2. The drawer 2 is open. In it, you see nothing.",
    "You clean the soapbar 1 using the sinkbasin 1.",
    "-= Welcome to TextWorld, ALFRED! =-\n\n" + OPENING,
    "  two  spaces, a tab\tand caf\u00e9, na\u00efve, \u4f60\u597d, \U0001f3e0 and 1234567890!",
    "",
]
COMMANDS = ["go to desk 1", "take basketball 1 from desk 1", "move soapbar 1 to garbagecan 1"]

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
messages = [
    {"role": "user", "content": TEXTS[0]},
    {"role": "assistant", "content": COMMANDS[0]},
    {"role": "user", "content": TEXTS[1]},
]
chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
prompt = tokenizer(chat, add_special_tokens=False)["input_ids"]
with torch.inference_mode():
    logits = model(torch.tensor([prompt])).logits[0]
    ids, continuation, gaps, cache = torch.tensor([prompt]), [], [], None
    for _ in range(64):
        output = model(ids, past_key_values=cache, use_cache=True)
        cache, last = output.past_key_values, output.logits[0, -1]
        best = last.topk(2)
        continuation.append(best.indices[0].item())
        gaps.append(round((best.values[0] - best.values[1]).item(), 6))
        ids = best.indices[:1][None]
some = list(range(0, logits.shape[1], 499))
golden = {
    "texts": [{"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in TEXTS + COMMANDS],
    "turns": [message["content"] for message in messages],
    "chat": chat,
    "prompt": prompt,
    "logit_ids": some,
    "logits": {str(place): [round(logits[place, i].item(), 5) for i in some] for place in (0, len(prompt) // 2, -1)},
    "continuation": continuation,
    "gaps": gaps,
}
path = Path(__file__).parent.parent / "golden" / "smollm2.json"
path.write_text(json.dumps(golden, indent=1) + "\n")
print(path, len(prompt), tokenizer.decode(continuation))
