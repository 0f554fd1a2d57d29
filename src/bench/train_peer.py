"""Measures PyTorch on the same training job on the same machine: hearth's decoder, batch, losses and optimizer in plain
torch. Prints one JSON object on stdout; everything else goes to stderr.

    train_peer.py --folder HF --job JOB.json --threads 2                             (needs: torch, safetensors)
    train_peer.py --folder HF --job JOB.json --device cuda:0 --precision bf16        (on an NVIDIA GPU)

JOB.json contains `job` ("sft" or "oreo"), `batch` (trajectories: a list of turns [observation ids, completion ids]),
`returns`, and the recipe's numbers. On the CPU, computation is eager f32; on a GPU, the networks are compiled by
torch.compile, and in bf16 they run under autocast. Both use scaled_dot_product_attention and fused AdamW.
Logits are computed only where a loss reads them. The batch is sorted by length and cut into micro-batches of at most
`part_tokens` tokens, padding included, whose gradients are added, as in hearth. If `part_tokens` has several sizes,
each is tried, and the output is the seconds and the size of the fastest. If it has one, the output is the seconds per
update (median after the first two), the losses and the peak memory.
"""

import argparse
import json
import math
import os
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the caller tries both policies
parser = argparse.ArgumentParser(prog="train_peer.py", description=__doc__.split("\n\n")[0])
parser.add_argument("--folder", type=Path, required=True, help="model folder")
parser.add_argument("--job", type=Path, required=True)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--device", default="cpu", help="where torch computes, as it names it")
parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(options.threads)
torch.set_default_device(options.device)
on_gpu = options.device != "cpu"
autocast = torch.autocast(torch.device(options.device).type, dtype=torch.bfloat16, enabled=options.precision == "bf16")


class RMSNorm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, self.heads, self.kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
        self.width = hidden // self.heads
        self.q_proj = nn.Linear(hidden, self.heads * self.width, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.width, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.width, hidden, bias=False)

    def forward(self, x, cosines, sines):
        batch, time, _ = x.shape
        split = lambda y, heads: y.view(batch, time, heads, self.width).transpose(1, 2)
        q, k, v = split(self.q_proj(x), self.heads), split(self.k_proj(x), self.kv_heads), split(self.v_proj(x), self.kv_heads)
        q, k = (y * cosines + torch.cat([-y[..., self.width // 2 :], y[..., : self.width // 2]], -1) * sines for y in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, time, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, inner = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj = nn.Linear(hidden, inner, bias=False), nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn, self.mlp = Attention(c), MLP(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])

    def forward(self, x, cosines, sines):
        x = x + self.self_attn(self.input_layernorm(x), cosines, sines)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        width = c["hidden_size"] // c["num_attention_heads"]
        steps = c["rope_theta"] ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.outer(torch.arange(c["max_position_embeddings"], dtype=torch.float64), steps).repeat(1, 2)
        self.register_buffer("cosines", angles.cos().float(), persistent=False)
        self.register_buffer("sines", angles.sin().float(), persistent=False)

    def forward(self, tokens):
        x, time = self.embed_tokens(tokens), tokens.shape[1]
        for layer in self.layers:
            x = layer(x, self.cosines[:time], self.sines[:time])
        return self.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.embed_tokens.weight)


class Value(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.trunk, self.head = Llama(c), nn.Linear(c["hidden_size"], 1, bias=False)

    def forward(self, tokens):
        return self.head(self.trunk(tokens)).squeeze(-1)


class MicroBatch:
    """A micro-batch: trajectories padded on the right to the longest, and the positions at which losses are read."""

    def __init__(self, trajectories, returns):
        rows = [[token for turn in turns for ids in turn for token in ids] for turns in trajectories]
        time, width = max(map(len, rows)), max(map(len, trajectories))
        self.count, self.length = len(rows), [len(row) for row in rows]
        self.tokens = torch.tensor([row + [0] * (time - len(row)) for row in rows])
        flat, self.mask = [], torch.zeros(len(rows), width, dtype=torch.bool)
        self.before, self.after = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
        turn_of, self.targets, self.of_row = [], [], []
        for index, turns in enumerate(trajectories):
            end = 0
            for k, (observation, completion) in enumerate(turns):
                begin = end + len(observation)
                end = begin + len(completion)
                self.before[index, k], self.after[index, k], self.mask[index, k] = begin - 1, end - 1, True
                flat += [index * time + t for t in range(begin - 1, end - 1)]
                self.targets += completion
                turn_of += [index * width + k] * len(completion)
                self.of_row += [index] * len(completion)
        self.flat, self.turn_of, self.targets = torch.tensor(flat), torch.tensor(turn_of), torch.tensor(self.targets)
        self.of_row, self.returns = torch.tensor(self.of_row), torch.tensor(returns).unsqueeze(1)
        self.valid = torch.tensor([i * time + t for i, row in enumerate(rows) for t in range(len(row) - 1)])
        self.next = torch.tensor([token for row in rows for token in row[1:]])

    def per_trajectory(self, terms):
        """Averages over the turns of each trajectory, then over trajectories."""
        return ((terms * self.mask).sum(1) / self.mask.sum(1)).mean()


def micro_batches(batch, returns, tokens):
    order = sorted(range(len(batch)), key=lambda i: -sum(len(ids) for turn in batch[i] for ids in turn))
    made = []
    while order:
        longest = sum(len(ids) for turn in batch[order[0]] for ids in turn)
        many = min(max(tokens // longest, 1), len(order))
        made.append(MicroBatch([batch[i] for i in order[:many]], [returns[i] for i in order[:many]]))
        order = order[many:]
    return made


def sft(policy, part, job):
    """Mean loss over all tokens except the first of each trajectory; the weight is the number of these tokens."""
    hidden = policy(part.tokens).flatten(0, 1)[part.valid]
    return F.cross_entropy(policy.logits(hidden), part.next), len(part.valid)


def oreo(policy, reference, value, part, job):
    """OREO's losses over turns: policy loss, KL, value loss and after-state value loss."""
    at = lambda network: F.log_softmax(network.logits(network(part.tokens).flatten(0, 1)[part.flat]), -1)
    mine = at(policy)
    with torch.no_grad():
        theirs = at(reference)
    chosen = (mine - theirs).gather(1, part.targets.unsqueeze(1)).squeeze(1)
    ratios = torch.zeros(part.mask.numel()).index_add(0, part.turn_of, chosen).view_as(part.mask)
    fixed = ratios.detach()
    to_come = fixed.flip(1).cumsum(1).flip(1)
    values, beta = value(part.tokens), job["beta"]
    before, after = values.gather(1, part.before), values.gather(1, part.after)
    loss_value = part.per_trajectory((before - part.returns + beta * to_come) ** 2)
    loss_after = part.per_trajectory((after - part.returns + beta * (to_come - fixed)) ** 2)
    loss_policy = part.per_trajectory((before.detach() - part.returns + beta * (ratios + to_come - fixed)) ** 2)
    divergences = (mine.exp() * (mine - theirs)).sum(1)
    counts = torch.bincount(part.of_row, minlength=part.count)
    kl = (torch.zeros(part.count).index_add(0, part.of_row, divergences) / counts).mean()
    return loss_policy, kl, loss_value, loss_after


def scheduled(highest, warmup, update, updates):
    rise = max(warmup * updates, 1.0)
    progress = min(max((update - rise) / max(updates - rise, 1.0), 0.0), 1.0)
    return highest * min((update + 1) / rise, 1.0) * 0.5 * (1 + math.cos(math.pi * progress))


def optimizer(network, job):
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": job["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(job["betas"]), eps=1e-8, fused=True)


def move(network, adam, rate, job):
    nn.utils.clip_grad_norm_(network.parameters(), job["clip"], foreach=True)
    for group in adam.param_groups:
        group["lr"] = rate
    adam.step()
    adam.zero_grad(set_to_none=True)


def learn(job, config, weights, batch, updates):
    """Returns the seconds and the losses of each update."""
    def decoder():
        network = Llama(config)
        network.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
        if on_gpu:
            network.compile()
        return network

    policy = decoder()
    adam = optimizer(policy, job)
    is_oreo = job["job"] == "oreo"
    if is_oreo:
        reference, value = decoder().requires_grad_(False), Value(config)
        value.trunk.load_state_dict(policy.state_dict())
        nn.init.zeros_(value.head.weight)
        value_adam = optimizer(value, job)
    seconds, losses = [], []
    total = sum(len(part.valid) for part in batch)
    count = sum(part.count for part in batch)
    for update in range(updates):
        started, logged = time.perf_counter(), {}

        def log(name, loss, share):
            logged[name] = logged.get(name, 0.0) + loss.item() * share

        for part in batch:
            if is_oreo:
                share = part.count / count
                with autocast:
                    loss_policy, kl, loss_value, loss_after = oreo(policy, reference, value, part, job)
                for name, loss in [("policy", loss_policy), ("value", loss_value), ("after_value", loss_after), ("kl", kl)]:
                    log(name, loss, share)
                ((loss_policy + job["alpha"] * kl + loss_value + loss_after) * share).backward()
            else:
                with autocast:
                    loss, weight = sft(policy, part, job)
                log("policy", loss, weight / total)
                (loss * (weight / total)).backward()
        rate = lambda highest: scheduled(highest, job["warmup"], update, job["updates"])
        if is_oreo:
            move(value, value_adam, rate(job["value_learning_rate"]), job)
        move(policy, adam, rate(job["learning_rate"]), job)
        if on_gpu:
            torch.cuda.synchronize(options.device)
        seconds.append(time.perf_counter() - started)
        losses.append(logged)
    return seconds, losses


job = json.loads(options.job.read_text())
config = json.loads((options.folder / "config.json").read_text())
weights = load_file(options.folder / "model.safetensors", device=options.device)
sizes = job["part_tokens"]
if len(sizes) > 1:
    tried = {}
    cuts = {len(micro_batches(job["batch"], job["returns"], size)): size for size in sizes}
    for size in cuts.values():
        # The first update warms up; the fastest of the others counts.
        tried[size] = min(learn(job, config, weights, micro_batches(job["batch"], job["returns"], size), 3)[0][1:])
        print(f"torch: micro-batches of {size} tokens: {tried[size]:.3f} s per update", file=sys.stderr)
    print(json.dumps(min((seconds, size) for size, seconds in tried.items())))
    sys.exit()
seconds, losses = learn(job, config, weights, micro_batches(job["batch"], job["returns"], sizes[0]), job["updates"])
if on_gpu:
    memory = torch.cuda.max_memory_allocated(options.device) >> 20
else:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({
    "peer": f"torch {torch.__version__} {options.precision}",
    "seconds": statistics.median(seconds[2:]),
    "losses": losses,
    "memory_mib": memory,
}))
