"""At a global minimum with perfect behaviour the Hessian has the rank of the behaviour's Gram matrix, or has not."""

import numpy as np
import pytest
import torch
from torch import nn

from spectra.costs import cross_entropy, mean_squared_error
from spectra.landscape import Landscape
from spectra.operators import Hessian, MatrixOperator
from volume.quadratic import behaviour_rank, curvature_rank
from volume.quadratic.rank import behaviour_jacobian, numerical_rank

SEEDS = range(8)


def network(seed: int, *, gain: float = 1.0) -> tuple[nn.Module, torch.Tensor]:
    """A random architecture, with dead and doubled units now and then, and some rows of data."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    inputs, width, outputs = (int(random.integers(low, high)) for low, high in ((2, 5), (2, 7), (2, 5)))
    activation = [nn.Tanh, nn.GELU, nn.Softplus][seed % 3]
    hidden = [nn.Linear(inputs, width), activation()] + ([nn.Linear(width, width), activation()] if seed % 2 else [])
    model = nn.Sequential(*hidden, nn.Linear(width, outputs, bias=bool(seed % 3))).double()
    with torch.no_grad():
        model[-1].weight *= gain
        if seed % 4 == 1:
            model[-1].weight[:, 0] = 0.0  # a unit that nothing listens to
        if seed % 4 == 2:
            model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
    return model, torch.randn(int(random.integers(2, 12)), inputs, dtype=torch.float64)


def own(model: nn.Module, inputs: torch.Tensor, *, soft: bool) -> Landscape:
    """The landscape whose targets are the model's own behaviour: its parameters are an exact global minimum."""
    with torch.no_grad():
        outputs = model(inputs)
    targets = outputs.softmax(-1) if soft else outputs
    return Landscape(model, cross_entropy if soft else mean_squared_error, (inputs, targets))


@pytest.mark.parametrize("seed", SEEDS)
def test_squared_error_has_the_rank_of_its_outputs(seed: int) -> None:
    landscape = own(*network(seed), soft=False)
    assert landscape.anchor_cost == 0.0
    curved, behaves = curvature_rank(Hessian(landscape)), behaviour_rank(landscape, "outputs")
    assert curved.rank == behaves.rank
    assert curved.rank == np.linalg.matrix_rank(behaviour_jacobian(landscape).numpy(), rtol=1e-6)
    assert curved.gap > 100.0
    assert curved.zero_dimension == landscape.size - behaves.rank


@pytest.mark.parametrize("seed", SEEDS)
def test_cross_entropy_has_the_rank_of_its_probabilities_and_not_of_its_logits(seed: int) -> None:
    model, inputs = network(seed)
    landscape = own(model, inputs, soft=True)
    assert float(landscape.gradient().norm()) < 1e-14
    curved, behaves = curvature_rank(Hessian(landscape)), behaviour_rank(landscape, "probabilities")
    assert curved.rank == behaves.rank
    logits = behaviour_rank(landscape, "outputs")
    assert logits.rank >= behaves.rank
    # At most one null direction a sample: adding one number to all its logits.
    assert logits.rank <= behaves.rank + len(inputs)


@pytest.mark.parametrize("samples", [2, 5])
def test_each_sample_hides_one_direction_from_the_softmax(samples: int) -> None:
    """With more parameters than outputs all N K logits move freely, and of them N (K - 1) change probabilities."""
    torch.manual_seed(samples)
    model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    landscape = own(model, torch.randn(samples, 4, dtype=torch.float64), soft=True)
    assert behaviour_rank(landscape, "outputs").rank == 3 * samples
    assert behaviour_rank(landscape, "probabilities").rank == 2 * samples
    assert curvature_rank(Hessian(landscape)).rank == 2 * samples


def test_saturated_probabilities_part_the_two_numerical_ranks() -> None:
    """The Hessian carries p (1 - p) once and the Gram matrix of probabilities twice: 1e-9 shows in one alone."""
    model = nn.Linear(2, 2, bias=False).double()
    theta = torch.tensor([1.0, 0.0, 0.0, 20.7], dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(theta.reshape(2, 2))
    landscape = own(model, torch.eye(2, dtype=torch.float64), soft=True)
    assert curvature_rank(Hessian(landscape), tolerance=1e-12).rank == 2
    assert behaviour_rank(landscape, "probabilities", tolerance=1e-12).rank == 1
    assert behaviour_rank(landscape, "probabilities", tolerance=1e-20).rank == 2


@pytest.mark.parametrize("seed", [0, 3])
def test_a_trained_minimum_of_random_targets(seed: int) -> None:
    """Not the model's own outputs: Gauss-Newton steps of least norm until random targets are fitted to rounding."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    inputs, targets = (torch.randn(6, k, dtype=torch.float64) for k in (3, 2))
    landscape = Landscape(model, mean_squared_error, (inputs, targets))
    for _ in range(60):
        residual = (landscape.outputs()[0] - targets).flatten()
        step = torch.linalg.lstsq(behaviour_jacobian(landscape), residual[:, None]).solution[:, 0]
        landscape = Landscape(
            model, mean_squared_error, (inputs, targets), theta=landscape.theta - step * min(1.0, 1.0 / step.norm())
        )
    assert landscape.anchor_cost < 1e-25
    curved, behaves = curvature_rank(Hessian(landscape)), behaviour_rank(landscape)
    assert (curved.rank, behaves.rank) == (12, 12)
    assert curved.zero_dimension == landscape.size - 12


def test_away_from_the_minimum_the_ranks_differ() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    landscape = Landscape(model, mean_squared_error, (torch.randn(4, 3).double(), torch.randn(4, 1).double()))
    assert behaviour_rank(landscape).rank == 4
    assert curvature_rank(Hessian(landscape)).rank > 4


@pytest.mark.parametrize("behaviour", ["outputs", "probabilities"])
def test_the_jacobian_is_that_of_torch_func(behaviour: str) -> None:
    model, inputs = network(3)
    landscape = Landscape(model, mean_squared_error, [(row[None], model(row[None]).detach()) for row in inputs])

    def shown(theta: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(model, landscape.parameters.unflatten(theta), (inputs,))
        return (outputs.softmax(-1) if behaviour == "probabilities" else outputs).flatten()

    exact = torch.func.jacfwd(shown)(landscape.theta)
    assert torch.allclose(behaviour_jacobian(landscape, behaviour), exact, atol=1e-13)


def test_the_gap_is_shown_and_its_absence_said() -> None:
    clear = numerical_rank([5.0, -1.0, 1e-15, 0.0], size=6, tolerance=1e-10, name="curvature")
    above, below = clear.around()
    assert above.tolist() == [1.0, 0.2]
    assert below.tolist() == pytest.approx([2e-16, 0.0])
    assert (clear.rank, clear.zero_dimension, clear.caution) == (2, 4, "")
    blurred = numerical_rank(np.geomspace(1.0, 1e-12, 25), tolerance=1e-6, name="curvature")
    assert "the rank 12 of the curvature is read off no gap" in blurred.caution
    assert numerical_rank([0.0, 0.0]).rank == 0
    assert numerical_rank([], size=3).zero_dimension == 3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="tolerance must be at least 0 and below 1, got 1.0"):
        numerical_rank([1.0], tolerance=1.0)
    with pytest.raises(ValueError, match="at least the number of eigenvalues 2, got 1"):
        numerical_rank([1.0, 2.0], size=1)
    with pytest.raises(ValueError, match="must be finite"):
        numerical_rank([1.0, float("nan")])
    with pytest.raises(ValueError, match=r"6,001 is above 6,000, too large .* take the rank of the behaviour's Gram"):
        curvature_rank(MatrixOperator(torch.zeros(6001, 6001)))
    landscape = own(*network(0), soft=False)
    with pytest.raises(ValueError, match="behaviour must be one of outputs, probabilities; got 'logits'"):
        behaviour_rank(landscape, "logits")
