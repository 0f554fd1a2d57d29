"""hearth's own decoder family for transformers: AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True).

A Llama with three additions, each if its key is in config.json: `goal_match`, `ngram_embedding` and `convolution`.
hearth writes this file beside the weights. There is no KV cache: every call reads the whole sequence.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class HearthConfig(PretrainedConfig):
    model_type = "hearth"

    def __init__(
        self,
        vocab_size=0,
        hidden_size=0,
        intermediate_size=0,
        num_hidden_layers=0,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=None,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        goal_match=None,
        ngram_embedding=(),
        convolution=None,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.goal_match = goal_match
        self.ngram_embedding = list(ngram_embedding)
        self.convolution = convolution
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


class Norm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + self.epsilon).rsqrt() * self.weight


class Convolution(nn.Module):
    """x[t] + sum over j of w[j] * x[t - j]: `weight` [width, channels], `x` [batch, time, channels]."""

    def __init__(self, width, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, channels))

    def forward(self, x):
        time = x.shape[1]
        shifted = (F.pad(x, (0, 0, j, 0))[:, :time] * tap for j, tap in enumerate(self.weight))
        return x + sum(shifted)


def filter_at(config, place, channels):
    """The convolution at a place, or nothing."""
    convolution = config.convolution
    if convolution is None or place not in convolution["places"]:
        return nn.Identity()
    return Convolution(convolution["width"], channels)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        queries = config.num_attention_heads * config.head_dim
        kv = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.head = config.head_dim
        self.kv_heads = config.num_key_value_heads
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)
        qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
        self.attention_conv = filter_at(config, "attention_input", config.hidden_size)
        self.qkv_conv = filter_at(config, "query_key_value", qkv)
        self.mlp_conv = filter_at(config, "mlp_input", config.hidden_size)
        self.gate_up_conv = filter_at(config, "gate_up", 2 * config.intermediate_size)

    def forward(self, stream, cosines, sines):
        stream = stream + self.attend(self.attention_conv(self.input_layernorm(stream)), cosines, sines)
        x = self.mlp_conv(self.post_attention_layernorm(stream))
        gate, up = self.gate_up_conv(torch.cat((self.mlp.gate_proj(x), self.mlp.up_proj(x)), -1)).chunk(2, -1)
        return stream + self.mlp.down_proj(F.silu(gate) * up)

    def attend(self, x, cosines, sines):
        batch, time, _ = x.shape
        heads = self.self_attn
        qkv = self.qkv_conv(torch.cat((heads.q_proj(x), heads.k_proj(x), heads.v_proj(x)), -1))
        q, k, v = (
            part.view(batch, time, -1, self.head).transpose(1, 2)
            for part in qkv.split((heads.q_proj.out_features, heads.k_proj.out_features, heads.v_proj.out_features), -1)
        )
        q, k = rotated(q, cosines, sines), rotated(k, cosines, sines)
        share = q.shape[1] // self.kv_heads
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return heads.o_proj(mixed.transpose(1, 2).reshape(batch, time, -1))


def rotated(x, cosines, sines):
    low, high = x.chunk(2, -1)
    return x * cosines + torch.cat((-high, low), -1) * sines


class NgramEmbedding(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden, hidden))
        self.none = nn.Parameter(torch.zeros(1, hidden))


class GoalEmbedding(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden))


class Trunk(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.goal_match is not None:
            self.goal_match = GoalEmbedding(config.hidden_size)
        orders = [str(order) for order in config.ngram_embedding]
        self.ngram = nn.ModuleDict({order: NgramEmbedding(config.hidden_size) for order in orders})
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, input_ids):
        x = self.embed_tokens(input_ids)
        rows = input_ids.tolist()
        if self.config.goal_match is not None:
            matched = torch.tensor([goal_matches(row, self.config.goal_match) for row in rows], device=x.device)
            x = x + matched[..., None].to(x.dtype) * self.goal_match.weight
        for order, ngram in self.ngram.items():
            follower = torch.tensor([followers(row, int(order)) for row in rows], device=x.device)
            read = self.embed_tokens(follower.clamp(min=0)) @ ngram.weight.T
            x = x + torch.where(follower[..., None] >= 0, read, ngram.none)
        frequencies = self.config.rope_theta ** (-torch.arange(0, self.config.head_dim, 2).double() / self.config.head_dim)
        angles = torch.outer(torch.arange(input_ids.shape[1]).double(), frequencies).repeat(1, 2)
        cosines, sines = (table.to(x.device, x.dtype) for table in (angles.cos(), angles.sin()))
        for layer in self.layers:
            x = layer(x, cosines, sines)
        return self.norm(x)


def followers(row, order):
    """For each token, the one that followed the last earlier occurrence of its n-gram; -1: none."""
    last, found = {}, []
    for at in range(len(row)):
        ngram = tuple(row[at - order + 1 : at + 1]) if at + 1 >= order else None
        if at >= order:
            last[tuple(row[at - order : at])] = row[at]
        found.append(last.get(ngram, -1))
    return found


def goal_matches(row, goal):
    """For each token, whether it occurs in the goal, and the goal has ended before it."""
    marker, end = goal["marker"], set(goal["end"])
    size = len(marker)
    start = next((at + size for at in range(len(row) - size + 1) if row[at : at + size] == marker), None)
    stop = None if start is None else next((at for at in range(start, len(row)) if row[at] in end), None)
    if stop is None:
        return [False] * len(row)
    words = set(row[start:stop]) - set(goal["ignored"])
    return [at >= stop and token in words for at, token in enumerate(row)]


class HearthForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = HearthConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = Trunk(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        pass

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}

    def forward(self, input_ids, labels=None, **_):
        hidden = self.model(input_ids)
        table = self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        logits = hidden @ table.T
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
