"""Refined coefficients: parts of the parameters and of the data, attention heads as positions in theta."""

import math

import pytest
import torch
from torch import Tensor, nn

from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.measures.singular import class_rows, head_positions, landscape_of_rows, refined_coefficient
from spectra.costs import cross_entropy, mean_squared_error
from spectra.landscape import Landscape

CHECKED = {"refined-coefficient": ("test_layers_of_a_linear_model_have_their_own_coefficients",)}


class Parallel(nn.Module):
    """A sum of two linear maps of inputs of their own: the Hessian has a block for each, and none between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 1, bias=False), nn.Linear(1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x[:, :3]) + self.second(x[:, 3:])


def test_layers_of_a_linear_model_have_their_own_coefficients(quadratic_coefficient) -> None:
    x = 10.0 * torch.linalg.qr(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)).double())[0]
    model = Parallel().double()
    with torch.no_grad():
        landscape = Landscape(model, mean_squared_error, (x, model(x)))
    evidence = Evidence(landscape, settings=EvidenceSettings())
    read = refined_coefficient(evidence, chains=16, sampler="mala", localisation=20.0, draws=200)
    values = torch.full((4,), 2.0 * 100.0 / 32.0)
    for name, count in (("first", 3), ("second", 1)):
        heat = {"inverse_temperature": 32.0 / math.log(32.0), "localisation": 20.0}
        exact = quadratic_coefficient(values[:count], **heat)
        # Fails with probability 1e-4, of Student's t with 15 degrees.
        assert abs(read.details[name] - exact) < 5.24 * read.details[f"{name}, error"]
        assert read.details[f"{name}, error"] < 0.2 * exact
    assert read.value == read.details["first"]
    assert read.cautions == ()


def test_the_cost_of_a_class_is_that_of_its_rows(relu_network, classes) -> None:
    inputs, targets = classes
    landscape = Landscape(relu_network(None), cross_entropy, [(inputs[:25], targets[:25]), (inputs[25:], targets[25:])])
    rows = class_rows(landscape)
    assert sum(len(one) for one in rows.values()) == 40
    part = landscape_of_rows(landscape, rows[2])
    own = Landscape(relu_network(None), cross_entropy, (inputs[targets == 2], targets[targets == 2]))
    assert part.anchor_cost == pytest.approx(own.anchor_cost, rel=1e-12)
    assert part.samples == own.samples
    settings = EvidenceSettings(budget=60, probes=2, steps=8)
    read = refined_coefficient(Evidence(landscape, settings=settings), by="class", chains=2, draws=20, burn_in=5)
    assert {"class 0", "class 1", "class 2"} <= read.details.keys()
    # All of them at the temperature of all of the data.
    assert read.details["inverse temperature"] == pytest.approx(40.0 / math.log(40.0))


def test_parts_that_there_are_none_of_are_refused(relu_network, classes) -> None:
    evidence = Evidence(Landscape(relu_network(None), cross_entropy, classes), settings=EvidenceSettings())
    with pytest.raises(ValueError, match="no attention heads of a known kind were found; choose by=layer"):
        refined_coefficient(evidence, by="head")
    real = Evidence(Landscape(nn.Linear(2, 1), mean_squared_error, (torch.randn(8, 2), torch.randn(8, 1))))
    with pytest.raises(ValueError, match="by=class needs a cross-entropy with one class a row"):
        refined_coefficient(real, by="class")


class Attention(nn.Module):
    """torch's attention over four places, of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0].mean(1)[:, :1]


def torchs() -> tuple[nn.Module, tuple[Tensor, Tensor], list[tuple[str, int]], str]:
    random = torch.Generator().manual_seed(0)
    data = (torch.randn(5, 4, 6, generator=random).double(), torch.randn(5, 1, generator=random).double())
    return Attention().double(), data, [("attention.out_proj.weight", 1)], "attention.out_proj.bias"


def of_transformers(kind: str) -> tuple[nn.Module, tuple[Tensor, Tensor], list[tuple[str, int]], str]:
    transformers = pytest.importorskip("transformers")
    size = {"vocab_size": 11, "max_position_embeddings": 8}
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=6, n_layer=1, n_head=2)
        mixing = [("transformer.h.0.attn.c_proj.weight", 0)]
    elif kind == "neox":
        config = transformers.GPTNeoXConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, **size
        )
        mixing = [("gpt_neox.layers.0.attention.dense.weight", 1)]
    else:
        config = transformers.LlamaConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=8,
            **size,
        )
        mixing = [("model.layers.0.self_attn.o_proj.weight", 1)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
    return model, (tokens, tokens), mixing, "bias"


def heads_of(build: tuple[nn.Module, tuple[Tensor, Tensor], list[tuple[str, int]], str], cost: object) -> None:
    """With another head's part of the mixing matrix at zero, no output depends on that head's parameters but those."""
    model, data, mixing, _ = build
    landscape = Landscape(model, cost, data)
    heads = head_positions(landscape)
    assert len(heads) == 2
    one, other = heads.values()
    assert len(one) == len(other)
    assert not set(one.tolist()) & set(other.tolist())
    tensors = {name: part.clone() for name, part in landscape.parameters.unflatten(landscape.theta).items()}
    ((name, axis),) = mixing
    half = tensors[name].shape[axis] // 2
    tensors[name].narrow(axis, 0, half).zero_()
    # Not at zero, where initial biases would hide a gradient of zero.
    theta = landscape.parameters.flatten(tensors)
    slope = landscape.gradient(theta)
    places = landscape.parameters.positions(name)
    mixed = set(places.tolist())
    outside = torch.tensor([place for place in one.tolist() if place not in mixed])
    assert float(slope[outside].abs().max()) < 1e-12
    inside = torch.tensor([place for place in other.tolist() if place not in mixed])
    assert float(slope[inside].abs().max()) > 1e-6
    # And that part of the mixing matrix is the head's own.
    zeroed = torch.zeros_like(tensors[name])
    zeroed.narrow(axis, 0, half).fill_(1.0)
    assert set(places[zeroed.reshape(-1) > 0].tolist()) == mixed & set(one.tolist())


def test_heads_of_torchs_attention() -> None:
    heads_of(torchs(), mean_squared_error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama"])
def test_heads_of_transformers(kind) -> None:
    heads_of(of_transformers(kind), cross_entropy)
