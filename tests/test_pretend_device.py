"""The pretended device computes what the CPU does, refuses what CUDA refuses, and finds what is planted."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from spectra.costs import cross_entropy
from spectra.landscape import Landscape
from spectra.operators import Hessian, verification
from spectra.timing import synchronise
from tests.pretend_device import DEVICE, TO_DEVICE, TO_HOST, WAIT, DeviceMismatchError, HiddenCopyError, pretend_device

ROWS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def double_backward(parameters: dict[str, Tensor], value: Callable[..., Tensor]) -> list[Tensor]:
    leaves = {name: one.clone().requires_grad_() for name, one in parameters.items()}
    slopes = torch.autograd.grad(value(leaves), list(leaves.values()), create_graph=True)
    return list(torch.autograd.grad(slopes, list(leaves.values()), list(parameters.values())))


def transforms(x: Tensor, parameters: dict[str, Tensor]) -> list[Tensor]:
    """What the product does with autograd and torch.func, in small."""
    model = network()

    def value(named: dict[str, Tensor]) -> Tensor:
        return functional_call(model, named, (x,)).square().sum()

    several = {name: torch.stack([one, 2.0 * one]) for name, one in parameters.items()}
    forward = jvp(grad(value), (parameters,), (parameters,))[1]
    slopes = vmap(grad(value))(several)
    return [*double_backward(parameters, value), *forward.values(), vmap(value)(several), *slopes.values()]


def test_autograd_and_its_transforms_give_the_numbers_of_the_cpu() -> None:
    parameters = {name: one.detach() for name, one in network().named_parameters()}
    truth = transforms(ROWS, parameters)
    with pretend_device() as device:
        found = transforms(ROWS.to(DEVICE), {name: one.to(DEVICE) for name, one in parameters.items()})
        assert all(one.device == DEVICE for one in found)
        assert all(one.kind == TO_DEVICE for one in device.crossings)
        for one, other in zip(found, truth, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-12, atol=1e-12)


def test_views_and_writes_into_them_reach_the_whole() -> None:
    with pretend_device():
        whole = torch.zeros(2, 3, device=DEVICE)
        whole.view(3, 2)[1].fill_(2.0)
        torch.add(whole[0], 1.0, out=whole[0])
        assert whole.tolist() == [[1.0, 1.0, 3.0], [2.0, 0.0, 0.0]]


MIXED = {
    "a sum": lambda x, host: x + host,
    "a product": lambda x, host: x.T @ host,
    "a row of the host joined on": lambda x, host: torch.cat([x, host]),
    "a number of the host joined on": lambda x, host: torch.stack([x.sum(), host.sum()]),
    "the host's tensor written to": lambda x, host: host.add_(x),
    "a row of the host put in": lambda x, host: x.index_put_((torch.zeros(1, device=DEVICE).long(),), host[0]),
    "a choice": lambda x, host: torch.where(x > 0.0, x, host),
    "noise of a generator of the host": lambda x, _: torch.randn(x.shape, generator=torch.Generator(), device=DEVICE),
    "such noise in place": lambda x, _: x.normal_(generator=torch.Generator()),
    "such noise into a tensor": lambda x, _: torch.randn(x.shape, generator=torch.Generator(), out=x),
    "noise of the device's generator on the host": lambda _, host: host.normal_(generator=torch.Generator(DEVICE)),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_the_places_is_refused(name: str) -> None:
    with pretend_device(), pytest.raises(DeviceMismatchError, match="of the host|generator of"):
        MIXED[name](torch.ones(6, 3, dtype=torch.float64, device=DEVICE), ROWS.clone())


def test_what_cuda_allows_is_allowed() -> None:
    with pretend_device() as device:
        x = torch.ones(3, device=DEVICE)
        kept = x * torch.tensor(2.0) + 1.0
        source = torch.Generator(DEVICE).manual_seed(5)
        assert source.device == DEVICE
        drawn = torch.randn(3, generator=source, device=DEVICE)
        x[x > 0.0] = 0.0  # filled without knowing how many
        assert device.crossings == []
        assert kept.tolist() == [3.0, 3.0, 3.0]
        assert torch.equal(drawn.cpu(), torch.randn(3, generator=torch.Generator().manual_seed(5)))


CROSSINGS = {
    "item": (lambda x: x.sum().item(), WAIT),
    "float": (lambda x: float(x[0]), WAIT),
    "bool": (lambda x: bool((x > 0.0).all()), WAIT),
    "places": (lambda x: x.nonzero(), WAIT),
    "mask": (lambda x: x[x > 0.0], WAIT),
    "equal": (lambda x: torch.equal(x, x), WAIT),
    "unique": (lambda x: x.unique(), WAIT),
    "cpu": (lambda x: x.cpu(), TO_HOST),
    "list": (lambda x: x.tolist(), TO_HOST),
    "forced": (lambda x: x.numpy(force=True), TO_HOST),
    "copied into the host's": (lambda x: torch.zeros(3).copy_(x), TO_HOST),
    "copied from the host's": (lambda x: x.copy_(torch.zeros(3)), TO_DEVICE),
    "moved": (lambda x: torch.zeros(3).to(x), TO_DEVICE),
    "places of the host": (lambda x: x[torch.tensor([0, 1])], TO_DEVICE),
}


@pytest.mark.parametrize("name", CROSSINGS)
def test_a_crossing_in_a_marked_loop_is_refused_and_elsewhere_written_down(name: str) -> None:
    cross, kind = CROSSINGS[name]

    def loop(x: Tensor) -> None:
        for _ in range(2):
            x = x + 1.0
            cross(x)

    with pretend_device() as device:
        loop(torch.ones(3, device=DEVICE))
        assert [one.kind for one in device.crossings] == 2 * [kind]
        with (
            device.marked(loop),
            pytest.raises(HiddenCopyError, match=f"{kind} at no line of the product, inside .*loop"),
        ):
            loop(torch.ones(3, device=DEVICE))


def test_numpy_takes_nothing_of_the_device_unasked() -> None:
    with pretend_device(), pytest.raises(TypeError, match="can't convert"):
        torch.ones(3, device=DEVICE).numpy()


def test_an_item_planted_in_a_product_is_found_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's own line is named: here the count of the loss's samples, read from the device."""
    with pretend_device() as device:
        landscape = Landscape(network(), cross_entropy, (ROWS, torch.tensor([0, 1, 0, 1, 1, 0]))).to(device=DEVICE)
        operator = Hessian(landscape, strategy="double-backward")
        operator.matvec(landscape.theta)
        with device.marked(Hessian.matmat):
            operator.matvec(landscape.theta)
        plain = Hessian._checked
        monkeypatch.setattr(Hessian, "_checked", lambda self, rows: plain(self, rows * rows.isfinite().all().item()))
        sentence = "_local_scalar_dense.* makes the host wait at spectra/operators/curvature.py:.* inside .*matmat"
        with device.marked(Hessian.matmat), pytest.raises(HiddenCopyError, match=sentence):
            operator.matvec(landscape.theta)


def test_a_stopwatch_that_does_not_wait_for_the_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_device() as device:
        x = torch.ones(3, device=DEVICE)
        verification.timed(lambda rows: rows + 1.0, x)
        assert device.early_readings == []
        monkeypatch.setattr(verification, "synchronise", lambda _: None)
        verification.timed(lambda rows: rows + 1.0, x + 1.0)
        assert len(device.early_readings) == 2
        assert all("verification.py" in one for one in device.early_readings)


def test_the_cpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    synchronise(torch.device("cpu"))
    assert waited == []
    synchronise(DEVICE)
    assert waited == [DEVICE]


def test_nothing_is_left_behind() -> None:
    before = torch.Generator, torch.accelerator.synchronize, time.perf_counter
    with pretend_device():
        x = torch.ones(3, device=DEVICE)
    assert (torch.Generator, torch.accelerator.synchronize, time.perf_counter) == before
    assert type(torch.tensor([1.0])) is Tensor
    with pytest.raises(AssertionError, match="after its context"):
        x + 1.0
