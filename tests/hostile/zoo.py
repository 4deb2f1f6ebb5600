"""Networks of every make that map (N, 3) to (N, 1), as other people write them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint


class Wrapped(nn.Module):
    """A forward from a function of the module's layers and x."""

    def __init__(self, call: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self, x)


class OldSquare(torch.autograd.Function):
    """Written before `setup_context`: no vmap, no forward-mode; twice differentiable."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x + x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return g * (2 * x + 1)


class OnceSwish(torch.autograd.Function):
    """A backward pass that cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * s * (1 + x * (1 - s))


class HalfRememberedSwish(torch.autograd.Function):
    """It saves an intermediate, which has no history: its second derivative is silently another one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        x, s = ctx.saved_tensors
        return g * s * (1 + x * (1 - s))


class ThroughNumpy(torch.autograd.Function):
    """Values that leave torch."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        out = torch.from_numpy(x.detach().numpy() ** 3).to(x)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(g.detach().numpy() * 3 * x.detach().numpy() ** 2).to(g)


class Symmetric(nn.Module):
    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return w.triu() + w.triu(1).mT


def quiet(make: Callable[[], nn.Module]) -> nn.Module:
    """Without the deprecation warnings of old constructions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def head(body: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(body, nn.Tanh(), nn.Linear(width, 1))


def _sequence(self: Any, x: torch.Tensor) -> torch.Tensor:
    out, _ = self.body(x[..., None])
    return self.out(out[:, -1])


def recurrent(kind: type[nn.Module], **options: Any) -> nn.Module:
    width = 4 * (2 if options.get("bidirectional") else 1)
    return Wrapped(_sequence, body=kind(1, 4, batch_first=True, **options), out=nn.Linear(width, 1))


def cells(self: Any, x: torch.Tensor) -> torch.Tensor:
    state = x.new_zeros(len(x), 4)
    for column in x.unbind(1):
        state = self.cell(column[:, None], state)
    return self.out(state)


def packed(self: Any, x: torch.Tensor) -> torch.Tensor:
    lengths = 1 + (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    sequences = nn.utils.rnn.pack_padded_sequence(x[..., None], lengths.cpu(), batch_first=True, enforce_sorted=False)
    _, last = self.body(sequences)
    return self.out(last[-1])


def attends(self: Any, x: torch.Tensor) -> torch.Tensor:
    tokens = self.embed(x[..., None])
    out, _ = self.attention(tokens, tokens, tokens)
    return self.out(out.mean(1))


def encodes(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.out(self.encoder(self.embed(x[..., None])).mean(1))


def scaled_attention(self: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = self.embed(x[..., None]).chunk(3, -1)
    return self.out(functional.scaled_dot_product_attention(q, k, v).mean(1))


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, **options)
    return Wrapped(encodes, embed=nn.Linear(1, 4), encoder=layer, out=nn.Linear(4, 1))


def conv1d(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 3)), *layers, nn.Flatten(), nn.Linear(width, 1))


def branches(self: Any, x: torch.Tensor) -> torch.Tensor:
    h = self.a(x)
    return self.b(torch.tanh(h)) if h.mean() > 0 else self.b(torch.sin(h))


def item(self: Any, x: torch.Tensor) -> torch.Tensor:
    h = self.a(x)
    return self.b(torch.tanh(h / (1 + h.abs().max().item())))


def masks(self: Any, x: torch.Tensor) -> torch.Tensor:
    h = self.a(x)
    out = torch.zeros_like(h)
    out[h > 0] = h[h > 0] ** 2
    return self.b(out)


def in_place(self: Any, x: torch.Tensor) -> torch.Tensor:
    h = self.a(x)
    h[:, 0] += 1
    h.tanh_()
    return self.b(h)


def checkpointed(reentrant: bool) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def call(self: Any, x: torch.Tensor) -> torch.Tensor:
        if reentrant:
            x = x.clone().requires_grad_()
        return self.b(checkpoint(lambda h: torch.tanh(self.a(h)), x, use_reentrant=reentrant))

    return call


def autocast(self: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return self.b(torch.tanh(self.a(x)))


def single(self: Any, x: torch.Tensor) -> torch.Tensor:
    h = functional.linear(x.float(), self.a.weight.float(), self.a.bias.float())
    return functional.linear(torch.tanh(h), self.b.weight.float(), self.b.bias.float())


def indices(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.b(self.table((x > 0).long() + torch.arange(3, device=x.device) * 2).flatten(1))


def fourier(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.b(torch.fft.irfft(torch.fft.rfft(self.a(x)) * self.phase, n=4))


def two(call: Callable[..., Any]) -> nn.Module:
    return Wrapped(call, a=nn.Linear(3, 4), b=nn.Linear(4, 1))


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)
        self.register_buffer("table", torch.linspace(-1, 1, 4))
        self.register_buffer("scratch", torch.ones(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)) * self.table + self.scratch)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def float64_head() -> nn.Module:
    def call(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)).double())

    return Wrapped(call, a=nn.Linear(3, 4).float(), b=nn.Linear(4, 1).double())


def custom(function: type[torch.autograd.Function]) -> nn.Module:
    return two(lambda self, x: self.b(function.apply(0.5 * self.a(x))))


def parametrised() -> nn.Module:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return head(layer, 3)


def hook() -> nn.Module:
    net = head(nn.Linear(3, 4), 4)
    net[0].register_forward_hook(lambda module, came, out: out * 0.5)
    return net


# the table of docs/modules.md: one row each, in float64 where nothing else is said
ZOO: dict[str, Callable[[], nn.Module]] = {
    "multilayer perceptron": lambda: head(nn.Linear(3, 4), 4),
    "PReLU": lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 1)),
    "RNN": lambda: recurrent(nn.RNN),
    "GRU, two layers": lambda: recurrent(nn.GRU, num_layers=2),
    "LSTM": lambda: recurrent(nn.LSTM),
    "LSTM, both directions": lambda: recurrent(nn.LSTM, bidirectional=True),
    "LSTM with projection": lambda: Wrapped(_sequence, body=nn.LSTM(1, 4, batch_first=True, proj_size=2), out=nn.Linear(2, 1)),
    "GRUCell in a loop": lambda: Wrapped(cells, cell=nn.GRUCell(1, 4), out=nn.Linear(4, 1)),
    "packed sequences": lambda: Wrapped(packed, body=nn.GRU(1, 4, batch_first=True), out=nn.Linear(4, 1)),
    "MultiheadAttention": lambda: Wrapped(
        attends, embed=nn.Linear(1, 4), attention=nn.MultiheadAttention(4, 2, batch_first=True), out=nn.Linear(4, 1)
    ),
    "TransformerEncoderLayer": encoder,
    "scaled dot product": lambda: Wrapped(scaled_attention, embed=nn.Linear(1, 12), out=nn.Linear(4, 1)),
    "Conv1d, BatchNorm1d, MaxPool1d": lambda: conv1d(
        nn.Conv1d(1, 4, 2, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), width=8
    ),
    "Conv2d, grouped, dilated": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 1, 3)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 1),
    ),
    "Conv3d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 1, 1, 3)), nn.Conv3d(1, 2, (1, 1, 2)), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1)
    ),
    "ConvTranspose1d": lambda: conv1d(nn.ConvTranspose1d(1, 2, 2), nn.Tanh(), width=8),
    "GroupNorm, RMSNorm": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.RMSNorm(4), nn.Tanh(), nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.Linear(4, 1)
    ),
    "weight_norm": lambda: head(parametrizations.weight_norm(nn.Linear(3, 4)), 4),
    "weight_norm, the old hook": lambda: quiet(lambda: head(nn.utils.weight_norm(nn.Linear(3, 4)), 4)),
    "spectral_norm": lambda: head(parametrizations.spectral_norm(nn.Linear(3, 4)), 4),
    "spectral_norm, the old hook": lambda: quiet(lambda: head(nn.utils.spectral_norm(nn.Linear(3, 4)), 4)),
    "orthogonal": lambda: head(parametrizations.orthogonal(nn.Linear(3, 4)), 4),
    "parametrised, symmetric": parametrised,
    "checkpointed": lambda: two(checkpointed(False)),
    "checkpointed, reentrant": lambda: two(checkpointed(True)),
    "custom function": lambda: custom(OldSquare),
    "custom function, differentiable once": lambda: custom(OnceSwish),
    "custom function that saves an intermediate": lambda: custom(HalfRememberedSwish),
    "custom function through NumPy": lambda: custom(ThroughNumpy),
    "torch.compile": lambda: torch.compile(head(nn.Linear(3, 4), 4)),
    "buffers": Buffered,
    "tied weights": Tied,
    "Embedding of computed indices": lambda: Wrapped(indices, table=nn.Embedding(6, 2), b=nn.Linear(6, 1)),
    "Embedding with sparse gradients": lambda: Wrapped(indices, table=nn.Embedding(6, 2, sparse=True), b=nn.Linear(6, 1)),
    "float32 inside, whatever comes": lambda: two(single),
    "Fourier transform": lambda: Wrapped(fourier, a=nn.Linear(3, 4), phase=nn.Parameter(torch.ones(3)), b=nn.Linear(4, 1)),
    "float32 with a float64 head": float64_head,
    "autocast inside": lambda: two(autocast),
    "Dropout": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1)),
    "data-dependent branch": lambda: two(branches),
    ".item() inside": lambda: two(item),
    "boolean mask": lambda: two(masks),
    "in-place operations": lambda: two(in_place),
    "forward hook": hook,
    "DataParallel": lambda: nn.DataParallel(head(nn.Linear(3, 4), 4)),
    "MixtureOfExperts by index": lambda: Wrapped(
        lambda self, x: torch.cat([self.a if row[0] > 0 else self.b for row in x.detach()]) * x.sum(1, keepdim=True),
        a=nn.Parameter(torch.ones(1, 1)),
        b=nn.Parameter(-torch.ones(1, 1)),
    ),
}
AS_IS = {"float32 with a float64 head", "autocast inside"}


def made(name: str) -> nn.Module:
    """The network, in double precision where it has no type of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ZOO[name]()
    return net if name in AS_IS else net.double()
