"""CS231n's CaptioningTransformer as its hand-outs name and compute it, for the parity tests."""

import copy

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, num_heads):
        super().__init__()
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.num_heads = num_heads

    def forward(self, query, memory, mask=None):
        def heads(tokens):
            return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        q, k, v = heads(self.query(query)), heads(self.key(memory)), heads(self.value(memory))
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -torch.inf)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens):
        return self.fc2(nn.functional.gelu(self.fc1(tokens)))


class Layer(nn.Module):
    """Of the hand-outs to 2024, after each residual branch its norm; `pre` puts it in front."""

    def __init__(self, width, num_heads, hidden=2048, *, pre=False):
        super().__init__()
        self.self_attn = Attention(width, num_heads)
        self.multihead_attn = Attention(width, num_heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.pre = pre

    def branches(self, memory, mask):
        def mlp(tokens):
            return self.linear2(nn.functional.relu(self.linear1(tokens)))

        return (
            (self.norm1, lambda tokens: self.self_attn(tokens, tokens, mask)),
            (self.norm2, lambda tokens: self.multihead_attn(tokens, memory)),
            (self.norm3, mlp),
        )

    def forward(self, tokens, memory, mask):
        for norm, branch in self.branches(memory, mask):
            if self.pre:
                tokens = tokens + branch(norm(tokens))
            else:
                tokens = norm(tokens + branch(tokens))
        return tokens


class Layer2025(nn.Module):
    def __init__(self, width, num_heads, hidden=2048):
        super().__init__()
        self.self_attn = Attention(width, num_heads)
        self.cross_attn = Attention(width, num_heads)
        self.ffn = FeedForward(width, hidden)
        self.norm_self, self.norm_cross, self.norm_ffn = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens, memory, mask):
        tokens = self.norm_self(tokens + self.self_attn(tokens, tokens, mask))
        tokens = self.norm_cross(tokens + self.cross_attn(tokens, memory))
        return self.norm_ffn(tokens + self.ffn(tokens))


class Decoder(nn.Module):
    def __init__(self, layer, num_layers):
        super().__init__()
        self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(num_layers)])

    def forward(self, tokens, memory, mask):
        for layer in self.layers:
            tokens = layer(tokens, memory, mask)
        return tokens


class PositionalEncoding(nn.Module):
    def __init__(self, width, max_len):
        super().__init__()
        positions = torch.arange(max_len).unsqueeze(1)
        angles = positions * 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        table = torch.zeros(1, max_len, width, dtype=torch.float64)
        table[0, :, 0::2], table[0, :, 1::2] = torch.sin(angles), torch.cos(angles)
        self.register_buffer("pe", table)

    def forward(self, tokens):
        return tokens + self.pe[:, : tokens.shape[1]]


class CaptioningTransformer(nn.Module):
    def __init__(self, vocabulary, features, width, layer, *, num_layers=2, max_length=50):
        super().__init__()
        self.visual_projection = nn.Linear(features, width)
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positional_encoding = PositionalEncoding(width, max_length)
        self.transformer = Decoder(layer, num_layers)
        self.output = nn.Linear(width, vocabulary)

    def forward(self, features, captions):
        length = captions.shape[1]
        memory = self.visual_projection(features).unsqueeze(1)
        tokens = self.positional_encoding(self.embedding(captions))
        mask = torch.tril(torch.ones(length, length))
        return self.output(self.transformer(tokens, memory, mask))
