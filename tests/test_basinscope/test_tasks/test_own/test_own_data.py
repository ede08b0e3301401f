"""What is taken as inputs, targets and loss, and every mistake in them that would be a wrong number, in a sentence."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from basinscope.tasks import make_landscape
from basinscope.tasks.own import chosen_task
from spectra.checkpoint import read_checkpoint
from spectra.landscape import Landscape

ROWS = 12
X = torch.randn((ROWS, 3), generator=torch.Generator().manual_seed(0))
K = torch.arange(ROWS) % 4
Y = torch.linspace(-1.0, 1.0, ROWS)


def model(outputs: int, *last: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, outputs), *last)


def number(value: Tensor) -> float:
    return float(value.detach())


@pytest.fixture
def landscape_of(tmp_path: Path) -> Any:
    def make(data: Any, loss: Any, made: nn.Module | None = None) -> Landscape:
        made = made or model(4)
        torch.save(made.state_dict(), tmp_path / "model.pt")
        name = chosen_task(None, model=made, data=data, loss=loss)
        assert name is not None
        return make_landscape(name, read_checkpoint(tmp_path / "model.pt"))

    return make


def saved(folder: Path, name: str, **arrays: Tensor) -> Path:
    path = folder / name
    if path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in arrays.items()})
    elif path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        torch.save(dict(arrays), path)
    return path


@pytest.mark.parametrize("ending", [".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("names", [("x", "y"), ("inputs", "targets"), ("images", "labels"), ("a", "b")])
def test_arrays_by_convention(ending: str, names: tuple[str, str], landscape_of: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, f"data{ending}", **{names[0]: X, names[1]: K})
    if names[0] == "a" and ending == ".safetensors":  # which sorts its names: the order says nothing
        with pytest.raises(ValueError, match="none is called y, targets or labels"):
            landscape_of(path, "cross-entropy")
        return
    found = landscape_of(path, "cross-entropy")
    assert found.cost() == pytest.approx(number(F.cross_entropy(model(4)(X), K)), rel=1e-6)
    assert f"inputs are {names[0]} and targets {names[1]} of data{ending}" in found.notes


@pytest.mark.parametrize(
    "data",
    [
        (X, K),
        (X.double().numpy(), K.to(torch.int8).numpy()),
        {"y": K, "x": X},
        TensorDataset(X, K),
        DataLoader(TensorDataset(X, K), batch_size=5),
        [(X[:5], K[:5]), (X[5:], K[5:])],
        [(X, K)],
    ],
)
def test_objects_of_python(data: Any, landscape_of: Any) -> None:
    assert landscape_of(data, nn.CrossEntropyLoss()).cost() == pytest.approx(
        number(F.cross_entropy(model(4)(X), K)), rel=1e-6
    )


def test_what_is_told_goes_before_conventions(landscape_of: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, "data.npz", y=X, x=K, z=Y)
    found = landscape_of(f"{path}?inputs=y&targets=x&rows=7", "cross-entropy")
    assert found.samples == 7
    assert found.cost() == pytest.approx(number(F.cross_entropy(model(4)(X[:7]), K[:7])), rel=1e-6)
    assert "left out of data.npz: z" in found.notes
    assert "the first 7 of its 12 rows are taken" in found.notes
    torch.save((X, K), tmp_path / "pair.pt")
    assert landscape_of(tmp_path / "pair.pt", "cross-entropy").samples == ROWS


def test_bytes_are_divided(landscape_of: Any, tmp_path: Path) -> None:
    pixels = (torch.rand((ROWS, 3), generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    path = saved(tmp_path, "bytes.npz", x=pixels, y=K)
    expected = number(F.cross_entropy(model(4)(pixels / 255), K))
    assert landscape_of(f"{path}?divide=255", "cross-entropy").cost() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(
        ValueError, match=r"inputs were int64 of shape \(12, 3\); where bytes are pixels, add .divide=255"
    ):
        landscape_of(path, "cross-entropy")


def test_a_table(landscape_of: Any, tmp_path: Path) -> None:
    rows = [f"{a},{b},{c},{k}" for (a, b, c), k in zip(X.double().tolist(), K.tolist(), strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,k", *rows]))
    found = landscape_of(tmp_path / "data.csv", "cross-entropy")
    assert found.cost() == pytest.approx(number(F.cross_entropy(model(4)(X), K)), rel=1e-6)
    regression = landscape_of(tmp_path / "data.csv", "mse", model(1))
    assert regression.cost() == pytest.approx(number(F.mse_loss(model(1)(X)[:, 0], K.float())), rel=1e-6)


class Saved:
    """A data set as the package datasets gives one."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns, self.column_names = columns, list(columns)

    def with_format(self, kind: str) -> "Saved":
        assert kind == "numpy"
        return self

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]


def test_a_saved_data_set(landscape_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "saved"
    place.mkdir()
    (place / "dataset_dict.json").write_text("{}")
    if not __import__("importlib.util").util.find_spec("datasets"):
        with pytest.raises(ValueError, match="needs the package datasets: install it"):
            landscape_of(place, "cross-entropy")
    columns = {"x": X.numpy(), "text": np.array(["a"] * ROWS), "label": K.numpy()}
    ragged = np.array([np.zeros(2), np.zeros(3)], dtype=object)
    splits = {"train": Saved(columns), "test": Saved({"x": ragged, "label": np.zeros(2)})}
    module = ModuleType("datasets")
    module.__spec__ = ModuleSpec("datasets", None)
    module.load_from_disk = {str(place): splits}.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    found = landscape_of(f"{place}?split=train", "cross-entropy")
    assert found.cost() == pytest.approx(number(F.cross_entropy(model(4)(X), K)), rel=1e-6)
    assert "left out of saved: text" in found.notes
    with pytest.raises(ValueError, match=r"has the splits train, test: add .split=NAME"):
        landscape_of(place, "cross-entropy")
    with pytest.raises(ValueError, match="x has rows of different lengths: pad them"):
        landscape_of(f"{place}?split=test", "cross-entropy")


def one_nan() -> Tensor:
    found = X.clone()
    found[3, 1] = torch.nan
    return found


@pytest.mark.parametrize(
    "data, words",
    [
        ((one_nan(), K), "inputs hold NaN, first in row 3, in 1 of 12 rows"),
        ((X[:0], K[:0]), "the data has no rows"),
        ([], "the data has no rows"),
        ((X, K[:-1]), r"different numbers of rows \(shapes \(12, 3\), \(11,\)\)"),
        (X, "the data is one array alone: expected a pair"),
        ((X, X, K), "the data is 3 arrays: expected a pair, of several inputs as"),
        (DataLoader(TensorDataset(X, Y, K), batch_size=4), "gives batches of 3 entries: expected pairs"),
        (DataLoader(TensorDataset(X, K), batch_size=4, shuffle=True), "not deterministic"),
        ({"x": X, "labels": K, "y": K}, "labels and y could both be the targets"),
        ({"x": X, "weights": Y, "y": K}, "cannot be told which are the inputs .the model takes input."),
        ({"a": X, "b": X, "c": K}, "none is called y, targets or labels as the targets"),
        ("nowhere.npz", "nowhere.npz does not exist"),
        (3, "must be arrays, tensors, a data set, a loader or batches, got int"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_wrong_data(data: Any, words: str, landscape_of: Any) -> None:
    with pytest.raises(ValueError, match=words):
        landscape_of(data, "cross-entropy")


def test_wrong_files(landscape_of: Any, tmp_path: Path) -> None:
    class Pickled(TensorDataset):
        pass

    torch.save(TensorDataset(X, K), tmp_path / "pickled.pt")
    torch.save([(X, K)], tmp_path / "list.pt")
    torch.save((X, Y, K), tmp_path / "three.pt")
    np.save(tmp_path / "one.npy", X)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], dtype=object), y=np.zeros(2))
    (tmp_path / "data.xyz").write_text("")
    for name, words in {
        "pickled.pt": "TensorDataset., which is not built: save its tensors",
        "list.pt": "a list of other things than tensors: save a pair",
        "three.pt": "none is called y, targets or labels as the targets: add '.inputs=NAME&targets=NAME'",
        "one.npy": "holds one array alone: save inputs and targets together with numpy.savez",
        "broken.npz": "cannot be read as an archive of arrays",
        "objects.npz": "Object arrays cannot be loaded",
        "data.xyz": "is none of the files that are read as data",
        "three.pt?inputs=0,3&targets=2": "has no array of numbers '3'",
        "three.pt?targets=2&inputs=2": "cannot be both inputs and targets",
        "three.pt?rows=3&row=3": "has no option 'row': it takes inputs, targets, rows, batch, divide; did you",
        "three.pt?inputs=0&targets=2&rows=0": "rows, batch and divide must be at least 1",
        "three.pt?inputs=0&targets=2&batch=few": "batch must be a number, got 'few'",
    }.items():
        with pytest.raises(ValueError, match=words):
            landscape_of(f"{tmp_path}/{name}", "cross-entropy")


def test_what_a_function_gives(landscape_of: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef load(rows=12, fail=False):\n    if fail:\n        raise KeyError('boom')\n"
        "    return torch.ones(rows, 3), torch.arange(rows) % 4\n\nDATA = load()\n"
    )
    place = tmp_path / "mine.py"
    expected = number(F.cross_entropy(model(4)(torch.ones(8, 3)), K[:8]))
    assert landscape_of(f"{place}:load?rows=8", "cross-entropy").cost() == pytest.approx(expected, rel=1e-6)
    assert landscape_of(f"{place}:DATA", "cross-entropy").samples == ROWS
    for name, words in {
        "load?row=8": "has no option 'row': it takes rows, fail; did you mean rows",
        "load?fail=true": r"raised KeyError: 'boom' \(mine.py, line 5\)",
        "DATA?rows=8": "is no function and takes no options, got rows",
        "lod": "has no 'lod'; did you mean load",
    }.items():
        with pytest.raises(ValueError, match=words):
            landscape_of(f"{place}:{name}", "cross-entropy")


def test_nothing_in_a_file_of_data_is_run(landscape_of: Any, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"x": X, "y": K, "more": Evil()}, tmp_path / "data.pt")
    with pytest.raises(ValueError, match="never runs it"):
        landscape_of(tmp_path / "data.pt", "cross-entropy")
    assert not (tmp_path / "ran").exists()


TWICE = nn.Sequential(nn.Softmax(1))
HALF = (K % 2).float()


@pytest.mark.parametrize(
    "targets, loss, made, words",
    [
        (
            K.float(),
            "cross-entropy",
            model(4),
            r"are float32 of shape \(12,\), and classes are whole numbers: save them",
        ),
        (Y, "cross-entropy", model(4), "for real targets give --loss mse"),
        (K + 1, "cross-entropy", model(4), "needs classes from 0 to 3, or -100 for samples to ignore, got 4"),
        (F.one_hot(K), "cross-entropy", model(4), "got int64 targets of shape"),
        (K, "cross-entropy", model(1), "K at least 2, got"),
        (K, "cross-entropy", model(4, nn.Softmax(1)), "are probabilities .each row sums to 1., .* takes logits"),
        (HALF, "bce", model(1, nn.Sigmoid()), "lie between 0 and 1, as after a sigmoid, and --loss bce takes logits"),
        (2 * HALF, "bce", model(1), "needs targets from 0 to 1, got 2"),
        (K, "mse", model(4), r"targets of the outputs' shape \(12, 4\), got \(12,\)"),
        (K, "crossentropy", model(4), "--loss must be cross-entropy, mse, bce, .*; did you mean cross-entropy"),
        (K, "math:pi", model(4), "must be a function .outputs, targets. -> .samples,., got float"),
        (Y, lambda outputs, targets: (outputs - targets).square().mean(-1), model(1), "mixes rows: .* broadcast"),
        (Y, lambda outputs, targets: (outputs[:, 0] - targets).square().mean(), model(1), "one value a sample"),
    ],
)
def test_a_wrong_loss(targets: Tensor, loss: Any, made: nn.Module, words: str, landscape_of: Any) -> None:
    with pytest.raises(ValueError, match=words):
        landscape_of((X, targets), loss, made)


def test_losses_that_are_meant_so(landscape_of: Any) -> None:
    """Where the loss is torch's own by name, it is taken at its word, and a note says what is odd."""
    logits, chance = model(4)(X), model(1)(X)[:, 0].sigmoid()
    softmaxed = landscape_of((X, K), "torch.nn:CrossEntropyLoss", model(4, nn.Softmax(1)))
    assert softmaxed.cost() == pytest.approx(number(F.cross_entropy(logits.softmax(1), K)), rel=1e-6)
    assert "the loss takes their softmax once more" in " ".join(softmaxed.notes)
    normal = landscape_of((X, K), "cross-entropy", model(4, nn.LogSoftmax(1)))
    assert normal.cost() == pytest.approx(number(F.cross_entropy(logits, K)), rel=1e-6)
    assert "log-probabilities" in " ".join(normal.notes)
    sigmoid = landscape_of((X, HALF), "torch.nn:BCELoss", model(1, nn.Sigmoid()))
    assert sigmoid.cost() == pytest.approx(number(F.binary_cross_entropy(chance, HALF)), rel=1e-6)
    smooth = landscape_of((X, K), "torch.nn:CrossEntropyLoss?label_smoothing=0.1")
    assert smooth.cost() == pytest.approx(number(F.cross_entropy(logits, K, label_smoothing=0.1)), rel=1e-6)
    squeezed = landscape_of((X, Y), lambda outputs, targets: (outputs.squeeze(-1) - targets) ** 2, model(1))
    assert squeezed.cost() == pytest.approx(number(F.mse_loss(model(1)(X)[:, 0], Y)), rel=1e-6)


def test_targets_in_another_shape_are_said(landscape_of: Any) -> None:
    for data in ((X, Y), DataLoader(TensorDataset(X, Y), batch_size=ROWS)):
        found = landscape_of(data, "mse", model(1))
        assert "targets of shape (12,) are taken in the shape (12, 1), which the loss needs" in found.notes
    column = landscape_of((X, K[:, None]), "cross-entropy")
    assert column.cost() == pytest.approx(number(F.cross_entropy(model(4)(X), K)), rel=1e-6)


def test_models_of_transformers(landscape_of: Any) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 7, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(n_positions=8, n_embd=4, n_layer=1, n_head=2, **sizes)
    with torch.random.fork_rng():
        causal = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.arange(30).reshape(6, 5) % 7
    found = landscape_of({"input_ids": tokens, "labels": tokens}, "cross-entropy", causal)
    assert found.cost() == pytest.approx(number(causal(input_ids=tokens, labels=tokens).loss), rel=1e-5)
    assert "shifted by one place" in " ".join(found.notes)
    # Without a word for what is no input of the model, it would be left out in silence.
    with pytest.raises(ValueError, match="cannot be told which are the inputs"):
        landscape_of({"input_ids": tokens, "number": tokens[:, 0], "labels": tokens}, "cross-entropy", causal)


class Words(nn.Module):
    """A class for each token; token 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(4, 2, padding_idx=0), nn.Linear(2, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


def test_a_padding_row_is_held_constant_and_said(landscape_of: Any) -> None:
    tokens = torch.arange(30).reshape(6, 5) % 4
    found = landscape_of((tokens, tokens.flip(1)), "cross-entropy", Words())
    slope = found.parameters.unflatten(found.gradient())["embedding.weight"]
    assert not slope[0].any()
    assert slope[1:].any(1).all()
    assert "row 0 of embedding.weight is padding and is held constant, as in training" in found.notes


def test_tokens_that_are_to_predict_themselves_are_said(landscape_of: Any) -> None:
    tokens = torch.arange(30).reshape(6, 5) % 4
    assert "needs them shifted by one" in " ".join(landscape_of((tokens, tokens), "cross-entropy", Words()).notes)
    assert "shifted" not in " ".join(landscape_of((tokens, tokens.flip(1)), "cross-entropy", Words()).notes)


def test_classes_on_either_axis(landscape_of: Any) -> None:
    """(N, K, T) and (N, T, K) are one shape where K is T."""
    tokens, targets = torch.arange(24).reshape(6, 4) % 4, torch.arange(24).flip(0).reshape(6, 4) % 4
    with pytest.raises(
        ValueError, match="may have the classes on axis 1 or on the last one: give --loss torch.nn:Cross"
    ):
        landscape_of((tokens, targets), "cross-entropy", Words())
    made = Words()
    found = landscape_of((tokens, targets), "torch.nn:CrossEntropyLoss", made)
    assert found.cost() == pytest.approx(number(F.cross_entropy(made(tokens), targets)), rel=1e-6)


def test_outputs_that_are_no_tensor(landscape_of: Any) -> None:
    class Pair(nn.Linear):
        def forward(self, inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"main": super().forward(inputs), "other": inputs}

    with pytest.raises(ValueError, match="the model gives a mapping of main, other, and --loss cross-entropy needs"):
        landscape_of((X, K), "cross-entropy", Pair(3, 4))
    made = Pair(3, 4)
    found = landscape_of(
        (X, K), lambda outputs, targets: F.cross_entropy(outputs["main"], targets, reduction="none"), made
    )
    assert found.cost() == pytest.approx(number(F.cross_entropy(made(X)["main"], K)), rel=1e-6)
