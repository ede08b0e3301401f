"""A model, data and a loss by name: the cost is torch's own loss, and the Hessian the dense one of double backward."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from basinscope import Hessian
from basinscope.tasks import make_landscape
from basinscope.tasks.own import chosen_task
from spectra.checkpoint import read_checkpoint
from spectra.landscape import Landscape

FILE = str(Path(__file__).with_name("own_models.py"))
specification = importlib.util.spec_from_file_location("own_models", FILE)
assert specification is not None
assert specification.loader is not None
own_models = importlib.util.module_from_spec(specification)
specification.loader.exec_module(own_models)
Loss = Callable[[Tensor, Tensor], Tensor]


def saved(folder: Path, model: nn.Module) -> Path:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    torch.save(model.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def landscape_of(path: Path, model: object, data: object, loss: object) -> Landscape:
    name = chosen_task(None, model=model, data=data, loss=loss)
    assert name is not None
    return make_landscape(name, read_checkpoint(path))


def dense(model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor, loss: Loss) -> tuple[float, Tensor]:
    """The loss and its Hessian, in float64, by torch alone."""
    model = model.double().eval()
    names, shapes = zip(*((name, value.shape) for name, value in model.named_parameters()), strict=True)
    flat = torch.cat([value.detach().reshape(-1) for value in model.parameters()])
    inputs = tuple(one.double() if one.is_floating_point() else one for one in inputs)

    def cost(theta: Tensor) -> Tensor:
        parts = torch.split(theta, [shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return loss(functional_call(model, named, inputs), targets)

    with sdpa_kernel(SDPBackend.MATH):
        return float(cost(flat)), torch.autograd.functional.hessian(cost, flat)


def draw(*shape: int, classes: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + classes)
    return torch.randint(classes, shape, generator=generator) if classes else torch.randn(shape, generator=generator)


def ignoring(targets: Tensor) -> Tensor:
    targets[0], targets[3] = -100, -100
    return targets


TOKENS: Loss = lambda outputs, targets: F.cross_entropy(outputs.flatten(0, 1), targets.flatten())  # noqa: E731
FAMILIES: dict[str, tuple[str, nn.Module, dict[str, Tensor], str, Loss]] = {
    "regression": (
        "regression?width=2",
        own_models.regression(2),
        {"x": draw(9, 3), "y": draw(9)},
        "mse",
        lambda outputs, targets: F.mse_loss(outputs[:, 0], targets.double()),
    ),
    "robust regression": (
        "regression",
        own_models.regression(),
        {"inputs": draw(9, 3), "targets": 2 * draw(9, 1)},
        "torch.nn:HuberLoss?delta=0.5",
        lambda outputs, targets: F.huber_loss(outputs, targets.double(), delta=0.5),
    ),
    "classifier": (
        "classifier?norm=true",
        own_models.classifier(norm=True),
        {"x": draw(9, 3), "labels": ignoring(draw(9, classes=4))},
        "cross-entropy",
        F.cross_entropy,
    ),
    "yes or no": (
        "regression",
        own_models.regression(),
        {"X": draw(9, 3), "y": draw(9, classes=2)},
        "bce",
        lambda outputs, targets: F.binary_cross_entropy_with_logits(outputs[:, 0], targets.double()),
    ),
    "GRU over tokens": (
        "Tagger",
        own_models.Tagger(),
        {"x": draw(5, 3, classes=5).to(torch.uint8), "y": ignoring(draw(5, 3, classes=4))},
        "cross-entropy",
        TOKENS,
    ),
    "LSTM over numbers": (
        "Reader",
        own_models.Reader(),
        {"x": draw(5, 4, 2), "y": draw(5, 1)},
        "mse",
        lambda outputs, targets: F.mse_loss(outputs, targets[:, 0].double()),
    ),
    "transformer": (
        "Transformer",
        own_models.Transformer(),
        {"x": draw(4, 3, classes=5), "y": draw(4, 3, classes=4)},
        "cross-entropy",
        TOKENS,
    ),
    "two inputs": (
        "Two",
        own_models.Two(),
        {"left": draw(9, 2), "right": draw(9, 4), "y": draw(9, classes=3)},
        "cross-entropy",
        F.cross_entropy,
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_cost_and_hessian_are_those_of_torch(family: str, tmp_path: Path) -> None:
    factory, model, arrays, loss, oracle = FAMILIES[family]
    path = saved(tmp_path, model)
    np.savez(tmp_path / "data.npz", **{name: array.numpy() for name, array in arrays.items()})
    found = landscape_of(path, f"{FILE}:{factory}", f"{tmp_path / 'data.npz'}?batch=4", loss)
    *inputs, targets = arrays.values()
    whole = tuple(one if one.is_floating_point() else one.long() for one in inputs)
    cost, hessian = dense(model, whole, targets, oracle)
    assert found.cost() == pytest.approx(cost, rel=1e-5)
    ours = Hessian(found).matmat(torch.eye(found.size))
    assert torch.allclose(ours.double(), hessian, rtol=1e-3, atol=1e-4 * float(hessian.abs().max()))


def test_images_in_class_folders(tmp_path: Path) -> None:
    pixels = draw(6, 7, 7, 3, classes=256).to(torch.uint8)
    for number, image in enumerate(pixels):
        place = tmp_path / "images" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(place / f"{number}.png")
    model = own_models.convolutional()
    path = saved(tmp_path, model)
    inputs = ((pixels.movedim(-1, 1) / 255) - 0.5) / 0.25
    cost, hessian = dense(model, (inputs,), torch.arange(6) % 2, F.cross_entropy)
    found = landscape_of(
        path, f"{FILE}:convolutional", f"{tmp_path / 'images'}?mean=0.5,0.5,0.5&std=0.25,0.25,0.25", "cross-entropy"
    )
    assert found.cost() == pytest.approx(cost, rel=1e-5)
    assert float(torch.trace(Hessian(found).matmat(torch.eye(found.size)))) == pytest.approx(
        float(torch.trace(hessian)), rel=1e-4
    )


def test_it_is_what_a_task_file_makes(tmp_path: Path) -> None:
    path = saved(tmp_path, own_models.classifier())
    np.savez(tmp_path / "data.npz", x=draw(300, 3).numpy(), y=draw(300, classes=4).numpy())
    by_file = make_landscape(f"{FILE}:task:path={tmp_path / 'data.npz'}", read_checkpoint(path))
    for batch in (7, 300):
        found = landscape_of(path, f"{FILE}:classifier", f"{tmp_path / 'data.npz'}?batch={batch}", "cross-entropy")
        assert found.cost() == pytest.approx(by_file.cost(), rel=1e-6)
        assert torch.allclose(found.gradient(), by_file.gradient(), rtol=1e-4, atol=1e-7)


def test_rows_that_depend_on_one_another_are_not_cut(tmp_path: Path) -> None:
    """With time first, a cut by rows would cut the sequences."""

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.GRU(2, 1)

        def forward(self, series: Tensor) -> Tensor:
            return self.recurrent(series)[0]

    path = saved(tmp_path, TimeFirst())
    inputs, targets = draw(300, 2, 2), draw(300, 2, 1)
    with pytest.raises(ValueError, match="rows of the data depend on one another"):
        landscape_of(path, TimeFirst, (inputs, targets), "mse")
    model = TimeFirst()
    model.load_state_dict(torch.load(path))
    whole = landscape_of(path, TimeFirst, [(inputs, targets)], "mse")
    with torch.no_grad():
        assert whole.cost() == pytest.approx(float(F.mse_loss(model(inputs), targets)), rel=1e-5)


def test_the_users_model_is_left_as_it_is(tmp_path: Path) -> None:
    path, model = saved(tmp_path, own_models.classifier()), own_models.classifier()
    before = model[0].weight.clone()
    found = landscape_of(path, model, (draw(9, 3), draw(9, classes=4)), nn.CrossEntropyLoss())
    assert found.model is not model
    assert torch.equal(model[0].weight, before)
    assert torch.equal(found.parameters.unflatten(found.theta)["0.weight"], torch.load(path)["0.weight"])


def test_a_checkpoint_in_float64_is_not_rounded(tmp_path: Path) -> None:
    path = saved(tmp_path, own_models.classifier().double())
    found = landscape_of(path, own_models.classifier, (draw(9, 3), draw(9, classes=4)), "cross-entropy")
    assert found.dtype == torch.float64
    assert torch.equal(found.parameters.unflatten(found.theta)["0.weight"], torch.load(path)["0.weight"])
    assert "taken to float64" in " ".join(found.notes)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = own_models.classifier()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


@pytest.mark.parametrize(
    "model, words",
    [
        (own_models.Two, r"model\.pt is not of this model: it lacks first.weight \(3, 2\), first.bias"),
        (lambda: own_models.classifier(5), r"0\.weight has shape \(3, 3\) in .*model\.pt but \(5, 3\) in the model"),
        (Wrapped, "the model's names begin with net., so let the factory give the model that is its .net"),
        (f"{FILE}:classifier?widht=3", "has no option 'widht': it takes width, norm; did you mean width"),
        (f"{FILE}:classifier?width", "options after . are key=value with & between, got 'width'"),
        (f"{FILE}:classifier?width=3&width=4", "option width is given twice"),
        (f"{FILE}:clasifier", "has no 'clasifier'; did you mean classifier"),
        (f"{FILE}:load", "cannot be called so .missing a required argument: 'path'.: it takes path, rows"),
        (f"{FILE}:classifier?width=three", "raised TypeError"),
        ("nowhere.py:make", "model file nowhere.py does not exist"),
        ("resnet18", "model 'resnet18' is not known: give package.module:factory"),
        ("no_such_module:make", "there is no module 'no_such_module'; give package.module:factory"),
        (lambda: nn.LazyLinear(4), "has no shape yet .a lazy module.: call the model once before"),
        (lambda: 3, "model must make a torch.nn.Module, got int"),
        ("math:pi", "must be a torch.nn.Module or make one, got float"),
    ],
)
def test_a_wrong_model(model: object, words: str, tmp_path: Path) -> None:
    path = saved(tmp_path, own_models.classifier())
    with pytest.raises(ValueError, match=words):
        landscape_of(path, model, (draw(9, 3), draw(9, classes=4)), "cross-entropy")


def test_a_beginning_of_the_checkpoints_names_is_pointed_out(tmp_path: Path) -> None:
    path = saved(tmp_path, Wrapped())
    with pytest.raises(ValueError, match="its names begin with net., so give --strip-prefix net."):
        landscape_of(path, own_models.classifier, (draw(9, 3), draw(9, classes=4)), "cross-entropy")
