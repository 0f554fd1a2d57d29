"""Measures llama.cpp and transformers with the same model on the same machine, through their own Python packages.
Prints one JSON object per line on stdout; everything else goes to stderr.

    peers.py --folder HF --make-gguf m.f16.gguf --type f16 [--like ORIGINAL.gguf]    (needs: gguf)
    peers.py --peer llama.cpp --gguf-f16 m.f16.gguf --gguf-q8 m.q8.gguf --threads 2  (needs: llama-cpp-python)
    peers.py --peer transformers --folder HF --dtype float32 --threads 2             (needs: torch, transformers)
    peers.py --peer transformers --folder HF --episodes FILE.json [--cached] --threads 2
    peers.py --peer transformers --folder HF --dtype bfloat16 --device cuda:0        (on an NVIDIA GPU)

Prefill: each sequence of a batch gets its own prompt of --prompt tokens. Decode: then each gets --tokens more, one per
pass, all sequences in one pass. Speeds count the tokens of all sequences. Both peers keep a KV cache per sequence and
compute logits only for the last token of each sequence. After a warm-up, the median of --repetitions is reported.
In decode, llama.cpp gets fixed ids and transformers the most likely ids. Neither samples, so only the model is timed.

Episodes: FILE.json is [[[observation ids, completion length], ...turns], ...episodes]. They are played in batches
with model.generate as it is commonly used: in every turn the whole history is input again, padded on the left, with
its mask, and the completion is sampled at temperature 1. All episodes of a batch write as many tokens as the longest
completion of the turn. Each keeps only as many as its own completion has, and only those are counted. If --cached is
given, the KV cache is kept from turn to turn instead. There is one pass after a warm-up; its line also has `tokens`,
`seconds` and `cached`.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the caller tries both policies
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main():
    parser = argparse.ArgumentParser(prog="peers.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer", choices=["llama.cpp", "transformers"])
    parser.add_argument("--folder", help="a Hugging Face model folder")
    parser.add_argument("--gguf-f16", help="measure this GGUF file as f16")
    parser.add_argument("--gguf-q8", help="measure this GGUF file as q8_0")
    parser.add_argument("--make-gguf", metavar="OUT", help="write --folder as a GGUF file instead of measuring")
    parser.add_argument("--type", choices=["f16", "q8_0"], default="f16", help="of the matrices in --make-gguf")
    parser.add_argument("--like", metavar="ORIGINAL", help="the GGUF file whose tokenizer --make-gguf copies")
    parser.add_argument("--batches", type=lambda text: [int(word) for word in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=256, help="tokens to prefill a sequence")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode a sequence")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="float32", help="of transformers' weights")
    parser.add_argument("--device", default="cpu", help="where transformers computes, as torch names it")
    parser.add_argument("--episodes", metavar="FILE", help="measure model.generate on these episodes")
    parser.add_argument("--cached", action="store_true", help="keep keys and values from turn to turn in --episodes")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.make_gguf and options.folder:
        make_gguf(options.folder, options.make_gguf, options.type, options.like)
    elif options.peer == "llama.cpp" and (options.gguf_f16 or options.gguf_q8):
        for dtype, path in [("f16", options.gguf_f16), ("q8_0", options.gguf_q8)]:
            if path:
                llama_cpp_speed(options, path, dtype)
    elif options.peer == "transformers" and options.folder:
        (transformers_episodes if options.episodes else transformers_speed)(options)
    else:
        parser.error("name --make-gguf, or a --peer and its model: --gguf-f16, --gguf-q8; --folder for transformers")


def report(options, **line):
    print(json.dumps({"peer": options.peer, **line, "threads": options.threads}), flush=True)


def measure(options, batch, play, **names):
    """Calls play(tokens), which returns the seconds of prefill and of decode, and reports both speeds."""
    play(min(options.tokens, 4))
    seconds = [play(options.tokens) for _ in range(options.repetitions)]
    prefill, decode = (statistics.median(column) for column in zip(*seconds))
    report(options, what="prefill", batch=batch, tokens_per_s=batch * options.prompt / prefill, **names)
    report(options, what="decode", batch=batch, tokens_per_s=batch * options.tokens / decode, **names)


def token(sequence, position, vocabulary):
    """Returns an id that differs between sequences and positions."""
    return (7919 * position + 104729 * sequence + 11) % vocabulary


def llama_cpp_speed(options, path, dtype):
    import llama_cpp as lib

    quiet = lib.llama_log_callback(lambda level, text, _: sys.stderr.buffer.write(text) if level == 4 else None)
    lib.llama_log_set(quiet, None)  # level 4: errors
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    built_for = re.findall(r"(\w+) = 1", lib.llama_print_system_info().decode())
    version = f"llama-cpp-python {lib.__version__} ({' '.join(built_for)})"
    for batch in options.batches:
        length = -(-(options.prompt + options.tokens) // 256) * 256  # llama.cpp needs whole cache blocks
        settings = lib.llama_context_default_params()
        settings.n_seq_max, settings.n_ctx, settings.kv_unified = batch, batch * length, False
        settings.n_batch = max(2048, options.prompt, batch)
        settings.n_threads = settings.n_threads_batch = options.threads
        context = lib.llama_init_from_model(model, settings)
        if not context:
            sys.exit(f"llama.cpp cannot make a context of {batch} sequences")
        tokens = lib.llama_batch_init(settings.n_batch, 0, 1)

        def forward(places):
            """Runs one pass over (sequence, position, whether its logits are needed)."""
            tokens.n_tokens = len(places)
            for i, (sequence, position, last) in enumerate(places):
                tokens.token[i] = token(sequence, position, vocabulary)
                tokens.pos[i], tokens.n_seq_id[i], tokens.logits[i] = position, 1, last
                tokens.seq_id[i][0] = sequence
            if lib.llama_decode(context, tokens) != 0:
                sys.exit(f"llama.cpp cannot decode {len(places)} tokens")
            lib.llama_get_logits_ith(context, -1)  # waits until the logits are ready

        def play(count):
            lib.llama_memory_clear(lib.llama_get_memory(context), True)
            at_once = settings.n_batch // options.prompt
            prompt, start = range(options.prompt), time.perf_counter()
            for first in range(0, batch, at_once):
                sequences = range(first, min(batch, first + at_once))
                forward([(s, p, p == options.prompt - 1) for s in sequences for p in prompt])
            middle = time.perf_counter()
            for position in range(options.prompt, options.prompt + count):
                forward([(s, position, True) for s in range(batch)])
            return middle - start, time.perf_counter() - middle

        measure(options, batch, play, dtype=dtype, version=version)
        lib.llama_batch_free(tokens)
        lib.llama_free(context)
    lib.llama_model_free(model)


def transformers_model(options):
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    torch.set_default_device(options.device)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.folder, dtype=options.dtype)
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    names = {"dtype": options.dtype, "version": version, "device": options.device}
    return torch, model.to(options.device).eval(), names


def clock(torch, options):
    """Returns the time in seconds after all work on the device is done."""
    if options.device != "cpu":
        torch.cuda.synchronize(options.device)
    return time.perf_counter()


def transformers_speed(options):
    torch, model, names = transformers_model(options)
    vocabulary = model.config.vocab_size
    for batch in options.batches:
        prompts = torch.tensor([[token(s, p, vocabulary) for p in range(options.prompt)] for s in range(batch)])

        @torch.inference_mode()
        def play(count):
            start = clock(torch, options)
            out = model(prompts, use_cache=True, logits_to_keep=1)
            middle = clock(torch, options)
            for _ in range(count):
                likeliest = out.logits[:, -1:].argmax(-1)
                out = model(likeliest, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
            return middle - start, clock(torch, options) - middle

        measure(options, batch, play, **names)


def transformers_episodes(options):
    torch, model, names = transformers_model(options)
    episodes = json.loads(Path(options.episodes).read_text())
    pad = model.config.pad_token_id or 0

    def padded(rows):
        """Pads rows of ids on the left; returns them and their mask (0 = padding)."""
        width = max(map(len, rows))
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor([[pad] * (width - len(row)) + row for row in rows]), torch.tensor(mask)

    def generate(ids, mask, count, **more):
        return model.generate(
            ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=True, temperature=1.0,
            top_k=0, top_p=1.0, pad_token_id=pad, return_dict_in_generate=True, **more,
        )  # fmt: skip

    def play(group):
        histories = [[] for _ in group]
        for k in range(max(map(len, group))):
            alive = [i for i, episode in enumerate(group) if k < len(episode)]
            for i in alive:
                histories[i] += group[i][k][0]
            ids, mask = padded([histories[i] for i in alive])
            out = generate(ids, mask, max(group[i][k][1] for i in alive)).sequences[:, ids.shape[1] :].tolist()
            for i, written in zip(alive, out):
                histories[i] += written[: group[i][k][1]]

    def play_cached(group):
        """The same with one cache: later observations are padded in place, and dropped tokens are masked."""
        ids = mask = torch.zeros(len(group), 0, dtype=torch.long)
        cache, rows = None, list(range(len(group)))
        for k in range(max(map(len, group))):
            alive = [at for at, i in enumerate(rows) if k < len(group[i])]
            if len(alive) < len(rows):
                ids, mask, rows = ids[alive], mask[alive], [rows[at] for at in alive]
                cache.batch_select_indices(torch.tensor(alive))
            seen, seen_mask = padded([group[i][k][0] for i in rows])
            ids, mask = torch.cat([ids, seen], 1), torch.cat([mask, seen_mask], 1)
            count = max(group[i][k][1] for i in rows)
            out = generate(ids, mask, count, past_key_values=cache)
            ids, cache = out.sequences, out.past_key_values
            kept = torch.tensor([[int(at < group[i][k][1]) for at in range(count)] for i in rows])
            mask = torch.cat([mask, kept], 1)

    play = play_cached if options.cached else play
    for batch in options.batches:
        play([episode[:1] for episode in episodes[:batch]])
        start = clock(torch, options)
        for first in range(0, len(episodes), batch):
            play(episodes[first : first + batch])
        seconds = clock(torch, options) - start
        tokens = sum(length for episode in episodes for _, length in episode)
        report(options, what="episodes", batch=batch, tokens_per_s=tokens / seconds, tokens=tokens, seconds=seconds,
               cached=options.cached, **names)  # fmt: skip


# GGUF -----------------------------------------------------------------------------------------------------------------

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def make_gguf(folder, out, kind, like):
    """Writes a Llama as GGUF. If there is no original to copy the tokenizer from, it has none: peers get only ids."""
    import gguf
    import numpy

    config = json.loads(Path(folder, "config.json").read_text())
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if config["model_type"] != "llama" or scaling.get("rope_type", "default") != "default":
        sys.exit(f"{folder}: only a Llama with plain rotary positions can be written")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    keys = config.get("num_key_value_heads", heads)
    head = config.get("head_dim") or width // heads
    writer = gguf.GGUFWriter(out, "llama")
    for name, value in {
        "block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"],
        "embedding_length": width, "feed_forward_length": config["intermediate_size"],
        "vocab_size": config["vocab_size"], "head_count": heads, "head_count_kv": keys, "key_length": head,
        "value_length": head, "rope_dimension_count": head, "layer_norm_rms_eps": config["rms_norm_eps"],
        "rope_freq_base": config.get("rope_theta") or scaling["rope_theta"],
        "file_type": {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[kind],
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    if like:
        for key, field in gguf.GGUFReader(like).fields.items():
            if key.startswith("tokenizer."):
                writer.add_key_value(key, field.contents(), field.types[0], (field.types[1:] or [None])[0])
    else:
        writer.add_tokenizer_model("no_vocab")
    for name, numbers in tensors(folder, numpy):
        stem = name.removesuffix(".weight")
        if stem == "lm_head" and config.get("tie_word_embeddings"):
            continue
        layer = stem.split(".", 3)[2:] if stem.startswith("model.layers.") else ["", stem]
        known = NAMES.get(layer[1]) if name.endswith(".weight") else None
        if known is None:
            sys.exit(f"{folder}: a Llama has no tensor {name}")
        if known in ("attn_q", "attn_k"):  # Hugging Face rotates halves, GGUF neighbours
            parts = numbers.reshape(heads if known == "attn_q" else keys, 2, head // 2, width)
            numbers = parts.swapaxes(1, 2).reshape(numbers.shape)
        kinds, whole = gguf.GGMLQuantizationType, numbers.shape[-1] % 32 == 0  # q8_0 has blocks of 32
        stored = kinds.F32 if numbers.ndim == 1 else kinds.Q8_0 if kind == "q8_0" and whole else kinds.F16
        name = f"blk.{layer[0]}.{known}.weight" if layer[0] else f"{known}.weight"
        writer.add_tensor(name, gguf.quants.quantize(numpy.ascontiguousarray(numbers), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(folder, numpy):
    """Yields the name and the f32 numbers of every tensor in a folder's safetensors files."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        with open(path, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[entry["dtype"]]
            begin = 8 + length + entry["data_offsets"][0]
            numbers = numpy.memmap(path, kind, "r", begin, tuple(entry["shape"]))
            if entry["dtype"] == "BF16":
                numbers = (numbers.astype(numpy.uint32) << 16).view(numpy.float32)
            yield name, numbers.astype(numpy.float32)


if __name__ == "__main__":
    main()
