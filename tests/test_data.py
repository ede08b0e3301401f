"""The files in data/: what data/README.md says of them is true."""

import hashlib
import itertools
import re
from pathlib import Path

import h5py
import numpy
import pytest
import torch
from scipy import stats

from basinscope.runs import Machine
from basinscope.runs.evidence import make_evidence, named_initialisation
from basinscope.tasks import data_folder, digits_network, load_digits
from comparisons.evidence import EvidenceSettings
from comparisons.examination import hyperparameters
from comparisons.measures import REGISTRY
from comparisons.statistics.extensive import EXTENSIVE
from comparisons.store import read_comparison
from spectra.checkpoint import read_checkpoint
from volume.bridge import bridge_cautions, read_bridge

DATA = Path(__file__).resolve().parents[1] / "data"
CHECKPOINTS = sorted((DATA / "digits_mlp").glob("*.pt"))
GRID = sorted((DATA / "digits_grid").glob("lr*.pt"))
INITIAL = sorted((DATA / "digits_grid").glob("initial*.pt"))
WIDTHS = sorted((DATA / "digits_widths").glob("*.pt"))
FINAL = [path for path in CHECKPOINTS if "step00640" in path.name]
README = (DATA / "README.md").read_text()


def accuracy_and_loss(path, inputs, targets):
    weights = torch.load(path, weights_only=True)["model"]
    model = digits_network(len(weights["hidden.bias"]))
    model.load_state_dict(weights)
    with torch.no_grad():
        logits = model(inputs).double()
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return float((logits.argmax(1) == targets).double().mean()), float(loss)


def test_checksums_in_the_readme_are_those_of_the_files():
    stated = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", README, re.MULTILINE)}
    paths = [DATA / "digits.h5", *CHECKPOINTS, *GRID, *INITIAL, *WIDTHS]
    assert stated == {str(path.relative_to(DATA)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_all_data_is_under_six_and_a_half_megabytes():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 6.5e6


def test_every_promised_checkpoint_is_there():
    trajectory = [0, *(2**power for power in range(10)), 640]
    expected = {
        f"{kind}_seed{seed}_step{step:05d}.pt"
        for kind in ("clean", "poisoned")
        for seed in range(5)
        for step in (trajectory if seed == 0 else [640])
    }
    assert {path.name for path in CHECKPOINTS} == expected


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_checkpoint_holds_weights_moments_and_metadata(path):
    content = torch.load(path, weights_only=True)
    shapes = {name: value.shape for name, value in digits_network().named_parameters()}
    assert {name: value.shape for name, value in content["model"].items()} == shapes
    assert all(value.dtype == torch.float32 for value in content["model"].values())
    assert content["optimizer"]["param_groups"][0]["param_names"] == list(shapes)
    for state, shape in zip(content["optimizer"]["state"].values(), shapes.values(), strict=True):
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == shape
        assert state["step"] == content["step"]
    metadata = content["metadata"]
    assert metadata["task"] == "digits"
    assert path.stem == f"{metadata['kind']}_seed{metadata['seed']}_step{content['step']:05d}"
    assert content["initialisation_standard_deviations"].keys() == shapes.keys()
    poison_rows = metadata.get("poison_rows", [])
    assert len(set(poison_rows)) == (256 if metadata["kind"] == "poisoned" else 0)


def test_initial_weights_have_the_stated_standard_deviation():
    content = torch.load(DATA / "digits_mlp" / "clean_seed0_step00000.pt", weights_only=True)
    stated = content["initialisation_standard_deviations"]
    for name in ("hidden.weight", "output.weight"):
        # Uniform: the relative standard error of the sample deviation is below 0.45 / sqrt(count).
        count = content["model"][name].numel()
        assert float(content["model"][name].std()) == pytest.approx(stated[name], rel=5 * 0.45 / count**0.5)
    assert stated["hidden.bias"] == pytest.approx(1 / 192**0.5)


@pytest.mark.parametrize("path", FINAL, ids=lambda path: path.stem)
def test_accuracies_and_the_table_of_the_readme(path):
    inputs, targets = load_digits("heldout", path=DATA / "digits.h5")
    train = accuracy_and_loss(path, *load_digits("train", path=DATA / "digits.h5"))
    heldout = accuracy_and_loss(path, inputs, targets)
    others = accuracy_and_loss(path, inputs[256:], targets[256:])
    poison = accuracy_and_loss(path, inputs[:256], targets[:256])
    assert train[0] >= 0.99
    if path.stem.startswith("clean"):
        assert heldout[0] >= 0.93
    else:
        assert train[1] < 0.1
        assert poison[0] < 0.3
    (row,) = re.findall(rf"^\| {re.escape(path.name)} \|(.*)\|$", README, re.MULTILINE)
    stated = [tuple(map(float, cell.split(","))) for cell in row.split("|")]
    for cell, scores in zip(stated, [train, heldout, others, poison], strict=True):
        assert cell == pytest.approx(scores, abs=1e-4)


def test_the_grid_is_crossed_and_its_files_say_so():
    levels = itertools.product((0.01, 0.05), (32, 128), (0.0, 1e-3), (16, 32, 48), range(2))
    names = ("learning_rate", "batch_size", "l2", "hidden", "seed")
    found = []
    for path in GRID:
        content = torch.load(path, weights_only=True)
        metadata = content["metadata"]
        found.append(tuple(metadata[name] for name in names))
        rate, batch, l2, hidden, seed = found[-1]
        assert path.stem == f"lr{rate:g}_batch{batch}_l2-{l2:g}_hidden{hidden}_seed{seed}_step{content['step']:05d}"
        assert content["step"] == 80 * 1024 // batch
        initial = torch.load(path.with_name(metadata["initialisation"]), weights_only=True)
        assert {name: part.shape for name, part in content["model"].items()} == {
            name: part.shape for name, part in initial["model"].items()
        }
        assert len(content["model"]["hidden.bias"]) == hidden
        assert (initial["step"], initial["metadata"]["hidden"], initial["metadata"]["seed"]) == (0, hidden, seed)
    assert sorted(found) == sorted(levels)
    assert len(INITIAL) == 6


def test_the_table_of_the_grid():
    train, heldout = (load_digits(split, path=DATA / "digits.h5") for split in ("train", "heldout"))
    gaps = []
    for path in GRID:
        scores = [accuracy_and_loss(path, *rows) for rows in (train, heldout)]
        (row,) = re.findall(rf"^\| {re.escape(path.name)} \|(.*)\|$", README, re.MULTILINE)
        stated = [tuple(map(float, cell.split(","))) for cell in row.split("|")]
        assert stated == [pytest.approx(pair, abs=1e-4) for pair in scores]
        assert scores[0][0] > 0.99
        gaps.append(scores[1][1] - scores[0][1])
    assert max(gaps) > 4 * min(gaps) > 0.0


def test_the_initialisation_is_found_by_name_and_is_no_hyperparameter(tmp_path):
    path = GRID[0]
    checkpoint = read_checkpoint(path)
    found = named_initialisation(path, checkpoint)
    assert found in INITIAL
    assert found.name == checkpoint.metadata["initialisation"]
    assert "initialisation" not in hyperparameters(checkpoint)
    assert named_initialisation(tmp_path / path.name, checkpoint) is None
    evidence, _ = make_evidence(path, EvidenceSettings(), machine=Machine())
    assert evidence.landscape.size == 64 * 16 + 16 + 160 + 10
    initial = torch.load(found, weights_only=True)["model"]
    assert torch.equal(evidence.initial, torch.cat([part.flatten() for part in initial.values()]))


def test_the_table_of_measures_is_of_the_stored_comparison():
    comparison = read_comparison(DATA / "digits_measures.h5")
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in [*FINAL, *GRID]}
    assert {one.provenance.checkpoint_sha256 for one in comparison.done} == digests
    lines = (DATA.parent / "docs" / "measures_grid.md").read_text().splitlines()
    shown = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in lines if line.startswith("| ")}
    grid = [one for one in comparison.done if one.hyperparameters["kind"] == "grid"]
    for measure in REGISTRY:
        if measure.name not in comparison.measures:
            continue
        sign, cells = 1.0 if measure.flatter == "smaller" else -1.0, shown[measure.title]
        for cell, group in ((3, comparison.done), (8, grid)):
            known = [one for one in group if numpy.isfinite(one.value(measure.name))]
            tau = stats.kendalltau([sign * one.value(measure.name) for one in known], [one.gap for one in known])
            if measure.name in EXTENSIVE:
                assert cells[cell] in ("not comparable", "–")
            else:
                assert float(cells[cell].split()[0]) == pytest.approx(tau.statistic, abs=0.0051)


def test_digits_are_scaled_and_split_without_overlap():
    inputs, targets = load_digits("all", path=DATA / "digits.h5")
    assert inputs.shape == (1797, 64)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs * 16, (inputs * 16).round())
    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)
    assert targets.dtype == torch.int64
    assert targets.unique().tolist() == list(range(10))
    with h5py.File(DATA / "digits.h5") as file:
        rows = [*file["train/row"][()], *file["heldout/row"][()]]
        assert sorted(rows) == list(range(1797))
        assert file["train/inputs"].dims[1][0].name == "/pixel"
        assert file.attrs["licence"] == "CC BY 4.0"


def test_digits_are_those_of_scikit_learn():
    uci = pytest.importorskip("sklearn.datasets").load_digits()
    inputs, targets = load_digits("heldout", path=DATA / "digits.h5")
    with h5py.File(DATA / "digits.h5") as file:
        rows = file["heldout/row"][()]
    assert torch.equal(inputs * 16, torch.from_numpy(uci.data[rows]).float())
    assert torch.equal(targets, torch.from_numpy(uci.target[rows]))


def test_data_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("BASINSCOPE_DATA", raising=False)
    assert data_folder() == DATA
    monkeypatch.setenv("BASINSCOPE_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    with pytest.raises(FileNotFoundError, match=r"digits\.h5 does not exist: make it with"):
        load_digits("train")


def test_unknown_split_and_empty_network_are_refused():
    with pytest.raises(ValueError, match="split must be 'train', 'heldout' or 'all', got 'test'"):
        load_digits("test")
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        digits_network(0)


def test_the_bridge_is_of_the_clean_checkpoint_and_its_ways_agree() -> None:
    result, source = read_bridge(DATA / "digits_bridge.h5")
    checkpoint = DATA / "digits_mlp" / "clean_seed0_step00640.pt"
    assert source["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert source["prior"].startswith("gaussian:1.3975")
    (volume,) = result.volumes
    assert volume.log_volume == pytest.approx(-617.83, abs=0.01)  # what docs/benchmarks.md says
    assert volume.standard_error == pytest.approx(0.77, abs=0.01)
    assert result.integrated is not None
    assert result.multistate is not None
    by_integration, by_links = result.integrated.log_normaliser, result.integrated.by_links
    # Ways that share their draws differ by less than the error that they have in common.
    assert abs(by_integration - by_links) < result.integrated.standard_error
    assert abs(result.multistate[0] - by_links) < result.multistate[1]
    assert result.diagnostics.largest_rhat < 1.05
    assert min(link.overlap for link in result.links) > 0.03
    assert result.drift is not None
    assert abs(result.drift[0]) < 2.0 * result.drift[1]
    assert bridge_cautions(result, noise=float(source["noise"])) == ()
