"""The task tabular on the tables that scikit-learn brings, against its own losses; and what it refuses."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from basinscope.tasks import make_landscape
from spectra.checkpoint import Checkpoint, read_checkpoint


def table(folder: Path, data, names: list[str]) -> Path:
    path = folder / "table.csv"
    lines = [",".join(names), *(",".join(map(repr, row.tolist())) for row in data)]
    path.write_text("\n".join(lines) + "\n")
    return path


def saved(folder: Path, weights: dict[str, Tensor]) -> Checkpoint:
    torch.save(weights, folder / "model.pt")
    return read_checkpoint(folder / "model.pt")


def test_logistic_regression_of_breast_cancer(tmp_path: Path) -> None:
    found = load_breast_cancer()
    inputs = StandardScaler().fit_transform(found.data)
    fitted = LogisticRegression(C=0.1).fit(inputs, found.target)
    columns = torch.cat([torch.tensor(found.target)[:, None], torch.tensor(found.data)], dim=1)
    path = table(tmp_path, columns.numpy(), ["benign", *(f"x{number}" for number in range(30))])
    weight, bias = torch.tensor(fitted.coef_), torch.tensor(fitted.intercept_)
    weights = {"0.weight": torch.cat([torch.zeros_like(weight), weight]), "0.bias": torch.cat([bias * 0.0, bias])}
    landscape = make_landscape(f"tabular:data={path},target=benign,standardise=yes", saved(tmp_path, weights))
    assert landscape.size == 62
    assert landscape.cost() == pytest.approx(log_loss(found.target, fitted.predict_proba(inputs)), rel=1e-8)


def test_a_network_on_diabetes(tmp_path: Path) -> None:
    found = load_diabetes()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 1))
    columns = torch.cat([torch.tensor(found.data), torch.tensor(found.target)[:, None]], dim=1)
    path = table(tmp_path, columns.numpy(), [*found.feature_names, "progression"])
    landscape = make_landscape(f"tabular:data={path},activation=tanh", saved(tmp_path, model.state_dict()))
    with torch.no_grad():
        outputs = model(torch.tensor(found.data).float())
    assert landscape.notes[0].startswith("the weights were taken as a chain of 0, 2, 4 with tanh between")
    assert landscape.cost() == pytest.approx(mean_squared_error(found.target, outputs.numpy()[:, 0]), rel=1e-6)


SQUARE = {"fc.weight": torch.eye(2)}


@pytest.mark.parametrize(
    "text, weights, options, words",
    [
        ("a,b,c\n1,2,0\n", SQUARE, "target=d", "has no column 'd'"),
        ("a,b,c\n1,2,0\n1,2\n", SQUARE, "", "row 3 has 2 entries, and there are 3 names"),
        ("a,b,c\n1,2,0\n1,x,1\n", SQUARE, "", "row 3: could not convert string to float: 'x'"),
        ("a,b,c\n1,nan,0\n", SQUARE, "", "not finite"),
        ("a,b,c\n1,2,2\n", SQUARE, "", "has the target 2, and the network's classes are 0 to 1"),
        ("a,b,c\n1,2,0.5\n", SQUARE, "", "has the target 0.5"),
        ("a,b\n1,0\n", SQUARE, "", "has 1 columns beside the target, and the network takes 2"),
        ("a,b,c\n", SQUARE, "", "rows of numbers"),
        ("", SQUARE, "", "rows of numbers"),
        ("a,b,c\n1,2,0\n", {"net.0.weight": torch.eye(2)}, "", "got net.0.weight"),
        ("a,b,c\n1,2,0\n", {"scale": torch.ones(2)}, "", "no weight of two dimensions"),
        ("a,b,c\n1,2,0\n", {"a.weight": torch.ones(3, 2), "b.weight": torch.ones(2, 2)}, "", "no chain"),
        ("a,b,c\n1,2,0\n", {**SQUARE, "norm": torch.ones(2)}, "", "norm"),
        ("a,b,c\n1,2,0\n", SQUARE, "activation=rely", "did you mean relu"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, text: str, weights: dict[str, Tensor], options: str, words: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    checkpoint = saved(tmp_path, weights)
    with pytest.raises(ValueError, match=words):
        make_landscape(f"tabular:data={path}{',' if options else ''}{options}", checkpoint)
