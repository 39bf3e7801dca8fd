"""TFN, LMF and MulT in plain, unoptimised PyTorch, as the baseline for this project's training speed.

The same models as `backbones`, at the sizes published for MOSI, as a paper's code has them: padded
sequences throughout, attention as two products with a mask, a softmax and a dropout on the whole matrix of
weights, Adam with PyTorch's defaults, the loss read after every step. Features have the shape (B, T_m, D_m),
predictions (B,).

NOTE[DIFF] MulT's keys and values share one dropout and normalisation of the source, as in this project; its
reference normalises the source twice, which is slower still.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = {"text": 768, "audio": 5, "vision": 20}


class MeanNet(nn.Module):
    """BatchNorm, dropout, three layers of the mean step. Shape: (B, T, width) -> (B, hidden)."""

    def __init__(self, width, hidden):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(width), nn.Dropout(0.3)
        self.layers = nn.ModuleList([nn.Linear(n, hidden) for n in (width, hidden, hidden)])

    def forward(self, x):
        x = self.dropout(self.norm(x.mean(1)))
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class LastState(nn.Module):
    """LSTM and linear, of the state at the padded end. Shape: (B, T, width) -> (B, out)."""

    def __init__(self, width, out):
        super().__init__()
        self.lstm, self.linear = nn.LSTM(width, 128, batch_first=True), nn.Linear(128, out)

    def forward(self, x):
        return self.linear(self.lstm(x)[1][0][0])


def _with_one(x):
    return torch.cat([torch.ones(len(x), 1), x], 1)


class TFN(nn.Module):
    """Tensor Fusion Network."""

    batch_size, learning_rate = 32, 0.001

    def __init__(self):
        super().__init__()
        self.text = LastState(WIDTHS["text"], 32)
        self.audio, self.vision = MeanNet(WIDTHS["audio"], 32), MeanNet(WIDTHS["vision"], 128)
        self.dropout, self.first = nn.Dropout(0.5), nn.Linear(33 * 33 * 129, 64)
        self.second, self.third = nn.Linear(64, 64), nn.Linear(64, 1)

    def forward(self, x):
        text, audio, vision = (_with_one(getattr(self, m)(x[m])) for m in WIDTHS)
        product = torch.bmm(audio[:, :, None], vision[:, None]).flatten(1)
        product = torch.bmm(product[:, :, None], text[:, None]).flatten(1)
        hidden = F.relu(self.second(F.relu(self.first(self.dropout(product)))))
        return torch.sigmoid(self.third(hidden))[:, 0] * 6 - 3


class LMF(nn.Module):
    """Low-rank Multimodal Fusion."""

    batch_size, learning_rate = 64, 0.001

    def __init__(self):
        super().__init__()
        self.text = LastState(WIDTHS["text"], 64)
        self.audio, self.vision = MeanNet(WIDTHS["audio"], 16), MeanNet(WIDTHS["vision"], 128)
        widths = {"text": 64, "audio": 16, "vision": 128}
        factors = {m: nn.Parameter(torch.empty(3, w + 1, 1)) for m, w in widths.items()}
        self.factors = nn.ParameterDict(factors)
        self.weights, self.bias = nn.Parameter(torch.empty(1, 3)), nn.Parameter(torch.zeros(1, 1))
        for parameter in (*self.factors.values(), self.weights):
            nn.init.xavier_normal_(parameter)

    def forward(self, x):
        projected = [torch.matmul(_with_one(getattr(self, m)(x[m])), self.factors[m]) for m in WIDTHS]
        product = projected[0] * projected[1] * projected[2]
        return (torch.matmul(self.weights, product.permute(1, 0, 2)[..., 0].T) + self.bias)[0]


class Attention(nn.Module):
    """Multi-head attention that holds all weights; a query sees keys up to its index plus |T - S|.

    Shape: (B, T, width), (B, S, width) -> (B, T, width).
    """

    def __init__(self, width, n_heads, dropout):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.n_heads, self.dropout = nn.Linear(width, width), n_heads, nn.Dropout(dropout)

    def forward(self, x, source):
        q, k, v = (
            layer(y).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer, y in ((self.query, x), (self.key, source), (self.value, source))
        )
        scores = torch.matmul(q / math.sqrt(q.shape[-1]), k.transpose(2, 3))
        hidden = torch.ones(scores.shape[2:]).triu(1 + abs(x.shape[1] - source.shape[1]))
        scores = scores + torch.zeros_like(hidden).masked_fill(hidden.bool(), -math.inf)
        weights = self.dropout(torch.softmax(scores, -1))
        return self.output(torch.matmul(weights, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm attention, to the source or, without one, to itself; then feed-forward."""

    def __init__(self, width, dropout):
        super().__init__()
        self.attention = Attention(width, 10, dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, source):
        normed = self.norms[0](x)
        x = x + self.attention(normed, normed if source is None else self.norms[0](source))
        return x + self.narrow(F.relu(self.widen(self.norms[1](x))))


class Encoder(nn.Module):
    """Layers of one target and its source. Shape: as `Attention`."""

    def __init__(self, width, attention_dropout, embed_dropout):
        super().__init__()
        self.layers = nn.ModuleList([Layer(width, attention_dropout) for _ in range(4)])
        self.norm, self.dropout, self.scale = nn.LayerNorm(width), nn.Dropout(embed_dropout), math.sqrt(width)

    def forward(self, x, source=None):
        x = self.dropout(self.scale * x)
        source = None if source is None else self.dropout(self.scale * source)
        for layer in self.layers:
            x = layer(x, source)
        return self.norm(x)


class MulT(nn.Module):
    """Multimodal Transformer; dropouts: whether it has any."""

    batch_size, learning_rate = 16, 0.002

    def __init__(self, dropouts=True):
        super().__init__()
        attention = {"text": 0.3, "audio": 0.2, "vision": 0.0} if dropouts else dict.fromkeys(WIDTHS, 0.0)
        embed = 0.2 * dropouts
        self.convolutions = nn.ModuleDict({m: nn.Conv1d(w, 50, 5, bias=False) for m, w in WIDTHS.items()})
        pairs = [(target, source) for target in WIDTHS for source in WIDTHS if source != target]
        self.cross = nn.ModuleDict({f"{t}_{s}": Encoder(50, attention[s], embed) for t, s in pairs})
        self.memories = nn.ModuleDict({m: Encoder(100, attention["text"], embed) for m in WIDTHS})
        self.text_dropout, self.output_dropout = nn.Dropout(0.5 * dropouts), nn.Dropout(0.5 * dropouts)
        self.first, self.second, self.output = nn.Linear(300, 300), nn.Linear(300, 300), nn.Linear(300, 1)

    def forward(self, x):
        x = {**x, "text": self.text_dropout(x["text"])}
        sequences = {m: self.convolutions[m](x[m].transpose(1, 2)).transpose(1, 2) for m in WIDTHS}
        last = []
        for target in WIDTHS:
            sources = [m for m in WIDTHS if m != target]
            found = [self.cross[f"{target}_{m}"](sequences[target], sequences[m]) for m in sources]
            last.append(self.memories[target](torch.cat(found, -1))[:, -1])
        summary = torch.cat(last, 1)
        hidden = self.second(self.output_dropout(F.relu(self.first(summary))))
        return self.output(summary + hidden)[:, 0]


MODELS = {"tfn": TFN, "lmf": LMF, "mult": MulT}


def plain_step(model, optimizer, features, labels):
    """Train for one step and return the loss."""
    optimizer.zero_grad()
    loss = F.l1_loss(model(features), labels)
    loss.backward()
    optimizer.step()
    return loss.item()
