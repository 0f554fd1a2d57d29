"""Every export of hearth with the library that it is for. Prints how many rows each took, as JSON.

    python3 tests/oracle/formats.py FOLDER      (Python 3.11.7)

Packages: datasets 5.2.0, pyarrow 26.0.1, pandas 3.1.1, torch 2.9.1, transformers 5.17.0, trl 1.16.0 (with accelerate
1.15.0); verl 0.9.1 and tensordict 0.15.3, which ask for other versions of these, with --no-deps, and beside them omegaconf,
hydra-core, ray, torchdata, pillow, codetiming, cloudpickle, orjson, importlib_metadata and pyvers.
FOLDER holds FORMAT.jsonl and FORMAT.parquet, all of the same episodes with a system message. It needs no model and no GPU:
a tokenizer of single words and a network of chance are made here; TRL's trainers prepare the rows and make an update.
"""

import json
import pathlib
import sys
import types

import datasets
import pyarrow.parquet
from datasets import load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import apply_chat_template, extract_prompt, is_conversational, maybe_apply_chat_template
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.dataset.rl_dataset import RLHFDataset

datasets.disable_progress_bars()
FOLDER = pathlib.Path(sys.argv[1])
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}</s>"
    "{% endgeneration %}{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def words(texts):
    """A tokenizer that knows the words of these texts."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(character, "isolated") for character in "\n "])
    known = {"<unk>", "system", "user", "assistant", "\n"}
    for text in texts:
        known.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(sorted(known))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    made.chat_template = TEMPLATE
    return made


def rows_of(form):
    kind = "parquet" if form.startswith("verl") else "json"
    suffix = "parquet" if kind == "parquet" else "jsonl"
    # The cache lies beside the files, and goes with them.
    return load_dataset(kind, data_files=str(FOLDER / f"{form}.{suffix}"), split="train", cache_dir=str(FOLDER / "cache"))


def alternate(roles, system, user, assistant):
    assert roles[0] == system and len(roles) % 2 == 1, roles
    assert all(role == (assistant if i % 2 else user) for i, role in enumerate(roles[1:])), roles


def learned(trainer, config, rows, tokenizer, **options):
    """The rows as the trainer prepares them, after it has made an update with them on a model of chance."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)
    networks = ["model"] if trainer is SFTTrainer else ["model", "ref_model"]
    options |= {"max_length": None, "report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no"}
    options |= {"max_steps": 1, "per_device_train_batch_size": 2, "disable_tqdm": True}
    made = trainer(
        **{network: LlamaForCausalLM(shape) for network in networks},
        args=config(output_dir=str(FOLDER / "trainer"), **options),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    made.train()
    return made.train_dataset


def chats():
    sharegpt, openai = rows_of("sharegpt"), rows_of("openai")
    for row, other in zip(sharegpt, openai, strict=True):
        alternate([said["from"] for said in row["conversations"]], "system", "human", "gpt")
        alternate([said["role"] for said in other["messages"]], "system", "user", "assistant")
        assert [said["value"] for said in row["conversations"]] == [said["content"] for said in other["messages"]]
        assert is_conversational({"messages": other["messages"]}) and row["reward"] in (0.0, 1.0)
    return sharegpt, openai


def sft(tokenizer):
    rows = rows_of("trl-sft")
    assert rows.column_names == ["messages"] and all(is_conversational(row) for row in rows)
    assert maybe_apply_chat_template(rows[0], tokenizer)["text"].startswith("<s>system\n")
    ready = learned(SFTTrainer, SFTConfig, rows, tokenizer, assistant_only_loss=True)
    for row, done in zip(rows, ready, strict=True):
        counted = [label for label in done["labels"] if label != -100]
        completions = "".join(said["content"] + "</s>" for said in row["messages"] if said["role"] == "assistant")
        assert tokenizer.decode(counted).replace(" ", "") == completions.replace(" ", "")
    return len(ready)


def dpo(tokenizer):
    rows = rows_of("trl-dpo")
    assert rows.column_names == ["prompt", "chosen", "rejected"]
    for row in rows:
        assert is_conversational(row) and row["prompt"][-1]["role"] == "user"
        sides = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
        assert extract_prompt(sides) == row, "TRL parts the pair at the same place"
        assert apply_chat_template(row, tokenizer)["chosen"] != apply_chat_template(row, tokenizer)["rejected"]
    ready = learned(DPOTrainer, DPOConfig, rows, tokenizer)
    assert all(row["prompt_ids"] and row["chosen_ids"] and row["rejected_ids"] for row in ready)
    return len(ready)


def kto(tokenizer):
    rows = rows_of("trl-kto")
    assert rows.column_names == ["prompt", "completion", "label"] and rows.features["label"].dtype == "bool"
    for row in rows:
        assert is_conversational(row) and [said["role"] for said in row["prompt"]] == ["system", "user"]
        assert row["completion"][0]["role"] == row["completion"][-1]["role"] == "assistant"
    ready = learned(KTOTrainer, KTOConfig, rows, tokenizer)
    assert all(row["prompt_ids"] and row["completion_ids"] for row in ready)
    return len(ready)


def verl_sft(tokenizer):
    path = FOLDER / "verl-sft.parquet"
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == ["messages", "data_source", "extra_info"], table.schema
    assert [info["index"] for info in table["extra_info"].to_pylist()] == list(range(table.num_rows))
    data = MultiTurnSFTDataset(str(path), tokenizer, {"max_length": 4096, "truncation": "error"})
    for i, row in enumerate(table["messages"].to_pylist()):
        item = data[i]
        counted = tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
        completions = "".join(said["content"] + "</s>" for said in row if said["role"] == "assistant")
        assert counted.replace(" ", "") == completions.replace(" ", "")
    return len(data)


def verl_rl(tokenizer):
    path = FOLDER / "verl-rl.parquet"
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == ["data_source", "prompt", "ability", "reward_model", "extra_info"], table.schema
    config = {"cache_dir": str(FOLDER / "cache"), "max_prompt_length": 4096, "filter_overlong_prompts_workers": 1}
    data = RLHFDataset(str(path), tokenizer, types.SimpleNamespace(get=config.get))
    for i, row in enumerate(table.to_pylist()):
        item = data[i]
        assert item["raw_prompt"] == row["prompt"] and [said["role"] for said in row["prompt"]] == ["system", "user"]
        assert item["index"] == i and item["data_source"] == "hearth"
        assert item["reward_model"] == {"style": "rule", "ground_truth": row["extra_info"]["game"]}
        assert 0 <= row["extra_info"]["successes"] <= row["extra_info"]["episodes"]
    return len(data)


def main():
    sharegpt, openai = chats()
    tokenizer = words(said["content"] for row in openai for said in row["messages"])
    counts = {"sharegpt": len(sharegpt), "openai": len(openai), "trl-sft": sft(tokenizer), "trl-dpo": dpo(tokenizer)}
    counts |= {"trl-kto": kto(tokenizer), "verl-sft": verl_sft(tokenizer), "verl-rl": verl_rl(tokenizer)}
    sys.__stdout__.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what libraries print
    main()
