"""Every export of hearth with the library that it is for. Prints how many rows each took, as JSON.

    python3 tests/oracle/formats.py FOLDER      (Python 3.11.7)

Packages: datasets 5.2.0, pyarrow 26.0.1, pandas 3.1.1, torch 2.9.1, transformers 5.17.0, trl 1.16.0 (with accelerate
1.15.0); verl 0.9.1 (with omegaconf, tensordict 0.15.3, ray, installed with --no-deps: it asks for an older transformers).
FOLDER holds FORMAT.jsonl and FORMAT.parquet, all of the same episodes with a system message. There is no model and no GPU:
a tokenizer of single words is made here, and the datasets' and trainers' own preparation is run on the rows.
"""

import json
import pathlib
import sys
import types

import datasets
import pyarrow.parquet
from datasets import load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
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
    splitter = pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "isolated")
    splitter = pre_tokenizers.Sequence(list(splitter))
    known = {"<unk>", "system", "user", "assistant", "\n"}
    for text in texts:
        known.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(sorted(known))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")
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


def prepared(trainer, rows, tokenizer, config):
    """The rows as a trainer's own preparation leaves them, on a trainer that has nothing else."""
    stub = types.SimpleNamespace(_tokenizer=tokenizer, processing_class=tokenizer, completion_only_loss=False, args=config,
                                 padding_free=False, _is_vlm=False)
    return stub, trainer._prepare_dataset


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
    config = SFTConfig(output_dir=str(FOLDER / "x"), assistant_only_loss=True, max_length=None, report_to="none", use_cpu=True)
    stub, prepare = prepared(SFTTrainer, rows, tokenizer, config)
    ready = prepare(stub, rows, tokenizer, config, False, None, "train")
    for row, done in zip(rows, ready, strict=True):
        learned = [i for i, mask in zip(done["input_ids"], done["assistant_masks"], strict=True) if mask]
        completions = "".join(said["content"] + "</s>" for said in row["messages"] if said["role"] == "assistant")
        assert tokenizer.decode(learned).replace(" ", "") == completions.replace(" ", "")
    return len(ready)


def dpo(tokenizer):
    rows = rows_of("trl-dpo")
    assert rows.column_names == ["prompt", "chosen", "rejected"]
    for row in rows:
        assert is_conversational(row) and row["prompt"][-1]["role"] == "user"
        sides = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
        assert extract_prompt(sides) == row, "TRL parts the pair at the same place"
        assert apply_chat_template(row, tokenizer)["chosen"] != apply_chat_template(row, tokenizer)["rejected"]
    config = DPOConfig(output_dir=str(FOLDER / "x"), max_length=None, report_to="none", use_cpu=True)
    stub, prepare = prepared(DPOTrainer, rows, tokenizer, config)
    ready = prepare(stub, rows, tokenizer, config, "train")
    assert all(row["prompt_ids"] and row["chosen_ids"] and row["rejected_ids"] for row in ready)
    return len(ready)


def kto(tokenizer):
    rows = rows_of("trl-kto")
    assert rows.column_names == ["prompt", "completion", "label"] and rows.features["label"].dtype == "bool"
    for row in rows:
        assert is_conversational(row) and [said["role"] for said in row["prompt"]] == ["system", "user"]
        assert row["completion"][0]["role"] == row["completion"][-1]["role"] == "assistant"
    config = KTOConfig(output_dir=str(FOLDER / "x"), max_length=None, report_to="none", use_cpu=True)
    stub, prepare = prepared(KTOTrainer, rows, tokenizer, config)
    ready = prepare(stub, rows, tokenizer, config, "train")
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
        learned = tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
        completions = "".join(said["content"] + "</s>" for said in row if said["role"] == "assistant")
        assert learned.replace(" ", "") == completions.replace(" ", "")
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
