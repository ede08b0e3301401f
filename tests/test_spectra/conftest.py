"""A zoo of small models, each with a plain twin of the same weights that torch.func can differentiate."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

CLASSES = 3


class PlainNorm(nn.Module):
    """Layer norm, or batch norm in train mode, in so many words.

    torch.func's vmapped second derivative of F.layer_norm is silently wrong (16 % here): no oracle.
    """

    def __init__(self, like: nn.LayerNorm | nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = like.weight, like.bias, like.eps
        self.over = (-1,) if isinstance(like, nn.LayerNorm) else (0, 2, 3)
        self.shape = (-1,) if isinstance(like, nn.LayerNorm) else (1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(self.over, keepdim=True)
        scaled = centred / (centred.square().mean(self.over, keepdim=True) + self.eps).sqrt()
        return scaled * self.weight.view(self.shape) + self.bias.view(self.shape)


def spelt_out(model: nn.Module, kind: type[nn.Module]) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind):
                setattr(module, name, PlainNorm(child))


def compiled(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, on import of its compiler
        return torch.compile(module)


class SliceCopies(nn.Module):
    """Writes its layers' results into parts of zeros(); the plain twin concatenates them."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(6, CLASSES)
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.tanh(self.first(x)), torch.sigmoid(self.second(x))
        if self.plain:
            hidden = torch.cat(parts, 1)
        else:
            hidden = torch.zeros(len(x), 6, dtype=x.dtype)
            hidden[:, :3], hidden[:, 3:] = parts
        return self.last(hidden)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.inner, self.last = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)), nn.Linear(4, CLASSES)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.last(self.inner(x))
        if self.reentrant:
            x = x.clone().requires_grad_()
        return self.last(checkpoint(self.inner, x, use_reentrant=self.reentrant))


class Attention(nn.Module):
    """One block: layer norm, causal attention over three tokens, layer norm, a logit row for each token."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm, self.heads, self.last_norm = nn.LayerNorm(4), nn.Linear(4, 12), nn.LayerNorm(4)
        self.last = nn.Linear(4, CLASSES)
        self.fused = fused

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.heads(self.norm(x)).chunk(3, -1)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)[:, 0]
        else:
            scores = q @ k.transpose(1, 2) / 2.0
            future = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
            mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        return self.last(self.last_norm(x + mixed))


class Tied(nn.Module):
    """The last layer's weights are the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle, self.last = nn.Embedding(CLASSES, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.last.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(self.embed(tokens % CLASSES))))


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class Detaching(torch.autograd.Function):
    """Right gradient; what the backward pass computes hides its dependence on the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0].detach() ** 2 * grad


class HidingTheDual(torch.autograd.Function):
    """Right gradient, computed out of autograd's sight, so that it is constant in the incoming gradient too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        mixed = 3 * ctx.saved_tensors[0] ** 2 * grad
        return 0.5 * mixed + 0.5 * mixed.detach()


class Custom(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 5), nn.Linear(5, CLASSES), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function.apply(self.first(x)))


def neox() -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=5,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=6,
        max_position_embeddings=8,
    )
    return GPTNeoXForCausalLM(config)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, CLASSES))


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    model[2].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    return model


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.Tanh(),
        nn.Conv2d(2, 2, 3),
        nn.BatchNorm2d(2),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


@dataclass
class Specimen:
    """A model in float64 with its data, and its twin for the oracle.

    Attributes:
        name: which.
        model: what is tested.
        plain: same parameter names and values, and what torch.func can differentiate.
        batches: inputs and targets.
    """

    name: str
    model: nn.Module
    plain: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    def anchor(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.plain.named_parameters() if p.requires_grad}

    def function(self) -> Callable[[Tensor], Tensor]:
        """Outputs (samples, K) of all batches as a function of theta."""
        anchor = self.anchor()

        def outputs(theta: Tensor) -> Tensor:
            parts = theta.split([one.numel() for one in anchor.values()])
            shaped = {key: part.view_as(anchor[key]) for key, part in zip(anchor, parts, strict=True)}
            found = [functional_call(self.plain, shaped, (inputs,)) for inputs, _ in self.batches]
            rows = [getattr(one, "logits", one) for one in found]
            return torch.cat([one.reshape(-1, one.shape[-1]) for one in rows])

        return outputs

    def theta(self) -> Tensor:
        return torch.cat([one.reshape(-1) for one in self.anchor().values()])

    def targets(self) -> Tensor:
        return torch.cat([targets.reshape(-1) for _, targets in self.batches])

    def jacobian(self, theta: Tensor) -> Tensor:
        """(samples, K, n)."""
        with sdpa_kernel(SDPBackend.MATH):
            return jacrev(self.function())(theta).detach()

    def hessian(self, cost: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
        """Of ``cost(outputs (samples, K))``, reverse over reverse."""
        outputs = self.function()
        with sdpa_kernel(SDPBackend.MATH):
            return jacrev(jacrev(lambda one: cost(outputs(one))))(theta).detach()


IMAGES, ROWS, TOKENS = (10, 1, 4, 4), (10, 4), (10, 3)
ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, mlp, ROWS),
    "batch-norm": (convolutional, convolutional, IMAGES),
    "transformer": (lambda: Attention(False), lambda: Attention(False), TOKENS),
    "causal-attention": (lambda: Attention(True), lambda: Attention(False), TOKENS),
    "tied": (Tied, Tied, TOKENS),
    "frozen": (frozen, frozen, ROWS),
    "max-pooling": (pooled, pooled, IMAGES),
    "slice-copies": (lambda: SliceCopies(False), lambda: SliceCopies(True), ROWS),
    "checkpointed": (lambda: Checkpointed(False), lambda: Checkpointed(None), ROWS),
    "compiled": (lambda: compiled(mlp()), mlp, ROWS),
    "neox": (neox, neox, TOKENS),
}


def make_specimen(name: str) -> Specimen:
    build, plain, shape = ZOO[name]
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # A network that starts in eval mode and whose batch norm has seen other data.
        twin = plain().double().eval()
        for module in twin.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)
        for parameter in twin.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model = build().double()
    inner = getattr(model, "_orig_mod", model)
    inner.load_state_dict(copy.deepcopy(twin.state_dict()))
    spelt_out(twin, nn.LayerNorm)
    if shape is TOKENS:
        inputs = torch.randint(5, shape, generator=generator)
        targets = torch.randint(CLASSES, shape, generator=generator)
    else:
        inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
        targets = torch.randint(CLASSES, shape[:1], generator=generator)
    return Specimen(name, model, twin, [(inputs[:8], targets[:8]), (inputs[8:], targets[8:])])


@pytest.fixture(params=list(ZOO))
def specimen(request: pytest.FixtureRequest) -> Specimen:
    return make_specimen(request.param)


@pytest.fixture
def make() -> Callable[[str], Specimen]:
    return make_specimen


@pytest.fixture(name="spelt_out")
def spelt_out_fixture() -> Callable[[nn.Module, type[nn.Module]], None]:
    return spelt_out


@pytest.fixture
def custom() -> Callable[[str], nn.Module]:
    """A network around a custom autograd function, in float64, or a checkpointed one."""
    functions = {"once": OnceDifferentiable, "detaching": Detaching, "hiding": HidingTheDual}

    def build(name: str) -> nn.Module:
        torch.manual_seed(0)
        return (Checkpointed(True) if name == "reentrant" else Custom(functions[name])).double()

    return build
