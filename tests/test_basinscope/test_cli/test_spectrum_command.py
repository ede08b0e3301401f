import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.func import functional_call, hessian

from basinscope.choices import read_bytes
from basinscope.cli import main
from basinscope.cli import spectrum as spectrum_command
from basinscope.views import compare, summarise
from spectra import compute
from spectra.costs import builtin as costs
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import read_spectrum
from spectra.words import COSTS

Run = Callable[..., int]


def dense_hessian(tiny: ModuleType, checkpoint: Path) -> torch.Tensor:
    model = tiny.network().double()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    inputs, targets = tiny.rows()
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]

    def cost(theta: torch.Tensor) -> torch.Tensor:
        parts = theta.split([shape.numel() for shape in shapes])
        tensors = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        outputs = functional_call(model, tensors, (inputs.double(),))
        return torch.nn.functional.cross_entropy(outputs, targets)

    theta = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    matrix: torch.Tensor = hessian(cost)(theta)
    return matrix


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    captured = capsys.readouterr()
    assert all(line.startswith("plan: ") for line in captured.err.splitlines())
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_the_command_agrees_with_the_dense_hessian(
    spectrum: Run, checkpoint: Path, tiny: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spectrum("--engine", "dense", "--dtype", "float64", "--shift", "0.5", "--shift", "2", "--json") == 0
    found = printed(capsys)
    exact = torch.linalg.eigvalsh(dense_hessian(tiny, checkpoint))
    assert found["trace"]["value"] == pytest.approx(float(exact.sum()), rel=1e-10)
    assert found["frobenius_norm"]["value"] == pytest.approx(float(exact.norm()), rel=1e-10)
    assert [at["shift"] for at in found["logdets"]] == [0.5, 2.0]
    for at, effective in zip(found["logdets"], found["effective_dimensions"], strict=True):
        assert at["value"] == pytest.approx(float((exact + at["shift"]).log().sum()), rel=1e-10)
        assert at["relative_value"] == pytest.approx(float((1 + exact / at["shift"]).log().sum()), rel=1e-9)
        dimension = float((exact / (exact + at["shift"])).sum())
        if dimension < 0.0:
            assert effective["value"] is None
            assert "would be below zero" in effective["undefined"]
        else:
            assert effective["value"] == pytest.approx(dimension, rel=1e-9)
    assert found["eigenvalues"][0]["value"] == pytest.approx(float(exact[exact.abs().argmax()]), rel=1e-10)
    assert found["negative"]["count_below_floor"]["value"] == int((exact < -found["negative"]["floor"]).sum())
    assert found["route"] == "dense"
    assert found["size"] == 50


def test_sampled_values_are_within_six_standard_errors(
    spectrum: Run, checkpoint: Path, tiny: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spectrum("--probes", "16", "--deflate", "0", "--shift", "1", "--json") == 0
    found = printed(capsys)
    exact = torch.linalg.eigvalsh(dense_hessian(tiny, checkpoint))
    for estimate, value in ((found["trace"], exact.sum()), (found["logdets"][0], (exact + 1).log().sum())):
        # Student t with 15 degrees of freedom passes 6 with probability 2e-5; coverage itself is tested elsewhere.
        assert 0.0 < abs(estimate["value"] - float(value)) < 6.0 * estimate["standard_error"]
        low, high = estimate["interval95"]
        assert low < estimate["value"] < high
    assert found["probes_done"] == 16
    assert found["complete"]


def test_one_probe_leaves_valid_json(spectrum: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert spectrum("--probes", "1", "--json") == 0
    found = printed(capsys)
    assert found["trace"]["standard_error"] is None
    assert any("one probe only" in caution for caution in found["trace"]["cautions"])


def test_the_summary_is_written_for_people(spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spectrum("--output", tmp_path / "s.h5", "--plot", tmp_path / "s.png", "--per-layer") == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    for words in ("Hessian spectrum of model.pt", "50 parameters, 40 samples, cross-entropy cost, float32"):
        assert words in captured.out
    for words in ("trace ", "±", "nat / parameter²", "gradient norm", "log det(H + cI) (nat)", "effective dimension"):
        assert words in captured.out
    for words in (f"spectrum written to {tmp_path / 's.h5'}", f"figure written to {tmp_path / 's.png'}"):
        assert words in captured.out.replace("\n", "")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert list(read_spectrum(tmp_path / "s.h5").spectrum.layers) == ["0", "2"]


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_the_plan_and_its_memory_are_said_before_the_computing(
    spectrum: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...]
) -> None:
    before: list[str] = []

    def watched(*arguments: Any, **rest: Any) -> Spectrum:
        before.append(capsys.readouterr().err)
        return compute.compute_spectrum(*arguments, **rest)

    monkeypatch.setattr("basinscope.runs.spectrum.compute_spectrum", watched)
    assert spectrum("--reorthogonalise", "full", "--deflate", "4", *extra) == 0
    # 8 probes of 12 steps, and a block of two for 2 + 4 steps.
    assert re.match(
        r"plan: slq route, 108 products, about 1 s at [\d.]+ ms each; full reorthogonalisation, the basis takes ",
        before[0],
    )
    assert "a Krylov space of dimension 4 is treated exactly, probes sample its complement" in before[0]
    assert before[0].count("\n") == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert ("full reorthogonalisation, the basis" in captured.out) == bool(extra)  # JSON keeps the notes


def test_the_memory_of_a_large_model_is_said_too(
    spectrum: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basinscope.runs.announcement.WORTH_SAYING", 0.0)
    assert spectrum("--reorthogonalise", "full", "--deflate", "4", "--block", "2") == 0
    plan, memory = capsys.readouterr().err.splitlines()
    assert plan.startswith("plan: ")
    # 50 parameters of 4 bytes; 2 probes of 12 steps, and three times the 8 + 4 of the Krylov space.
    assert "above the model: 15 vectors of 0.2 kB, bases of 12 kB, a graph of" in memory
    assert spectrum("--engine", "dense") == 0
    assert capsys.readouterr().err.count("\n") == 1  # the sampling route alone is foretold


def test_a_resumed_run_says_what_is_kept(spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "s.h5"
    assert spectrum("--probes", "2", "--output", output) == 0
    capsys.readouterr()
    assert spectrum("--probes", "4", "--output", output, "--resume") == 0
    # The two probes left, of 12 steps each; what is stored is no part of what is to come.
    assert "2 of 4 probes are stored and kept; 24 products, about 1 s at" in capsys.readouterr().err
    assert spectrum("--probes", "4", "--output", output, "--resume") == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # nothing is computed
    assert main(["show", str(output)]) == 0
    assert "note: full reorthogonalisation, the basis takes" in capsys.readouterr().out


def test_a_shift_inside_the_negative_eigenvalues_is_undefined_but_no_failure(
    spectrum: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spectrum("--engine", "dense", "--shift", "1e-9", "--json") == 0
    found = printed(capsys)
    assert found["support"][0] < -1e-9
    assert found["logdets"][0]["value"] is None
    assert "its log-determinant does not exist" in found["logdets"][0]["undefined"]
    assert found["effective_dimensions"][0]["value"] is None
    assert "inside the negative eigenvalues" in found["effective_dimensions"][0]["undefined"]
    assert spectrum("--engine", "dense", "--shift", "1e-9") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "undefined at 1e-09: the Hessian plus 1e-09 is not positive definite" in out
    assert "1e-09 undefined undefined undefined" in out
    assert out.count("its log-determinant does not exist") == 1
    assert "inside the negative eigenvalues" not in out  # the same reason in other words
    assert spectrum("--engine", "dense", "--shift", "1e-9", "--negative", "clip", "--json") == 0
    clipped = printed(capsys)["logdets"][0]
    assert clipped["value"] is not None
    assert any("'clip'" in caution for caution in clipped["cautions"])


@pytest.mark.parametrize(
    "options, key, value",
    [
        (["--cost", "kl"], "cost", 0.0),
        (["--layers", "2"], "size", 18),
        (["--operator", "fisher", "--strategy", "auto"], "operator", "fisher"),
        (["--threads", "1"], "samples", 40.0),
    ],
)
def test_options_reach_the_computation(
    spectrum: Run, capsys: pytest.CaptureFixture[str], options: list[str], key: str, value: object
) -> None:
    assert spectrum(*options, "--json") == 0
    found = printed(capsys)[key]
    assert found == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value)


def datasets(path: Path) -> dict[str, bytes]:
    found = {}

    def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


@pytest.mark.parametrize("method", [("--deflate", "0", "--per-layer"), ("--deflate", "4")])
def test_resuming_adds_probes_to_the_last_bit(spectrum: Run, tmp_path: Path, method: tuple[str, ...]) -> None:
    options = ("--block", "2", *method)
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    assert spectrum("--probes", "6", "--output", whole, *options) == 0
    for probes in ("2", "4", "6"):
        assert spectrum("--probes", probes, "--output", parts, "--resume", *options) == 0
    assert datasets(parts) == datasets(whole)
    assert len(read_spectrum(parts).provenance.command.splitlines()) <= 3


def test_more_probes_than_first_asked_for_sample_the_same_complement(
    spectrum: Run, checkpoint: Path, tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.h5"
    assert spectrum("--probes", "2", "--output", output) == 0
    capsys.readouterr()
    assert spectrum("--probes", "40", "--output", output, "--resume", "--json") == 0
    trace = printed(capsys)["trace"]
    exact = float(dense_hessian(tiny, checkpoint).trace())
    deflated = read_spectrum(output).spectrum.density.deflation.captured
    assert deflated == 0  # two probes leave no products for it
    # Student t with 39 degrees of freedom passes 4 with probability 3e-4; the mixed complements are 7 away.
    assert abs(trace["value"] - exact) < 4.0 * trace["standard_error"]


def test_resuming_a_complete_spectrum_computes_nothing(
    spectrum: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "s.h5"
    assert spectrum("--output", output) == 0
    before = output.read_bytes()
    monkeypatch.setattr("basinscope.runs.spectrum.compute_spectrum", None)
    assert spectrum("--output", output, "--resume") == 0
    assert output.read_bytes() == before


def test_an_interruption_says_what_is_saved_and_can_be_resumed(
    spectrum: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--probes", "6", "--block", "2")

    def interrupted(*arguments: Any, on_block: Callable[[Spectrum], None], **rest: Any) -> Spectrum:
        def stop(partial: Spectrum) -> None:
            on_block(partial)
            if partial.density.runs.probes:
                raise KeyboardInterrupt

        return compute.compute_spectrum(*arguments, on_block=stop, **rest)

    with monkeypatch.context() as patch:
        patch.setattr("basinscope.runs.spectrum.compute_spectrum", interrupted)
        assert spectrum("--output", tmp_path / "s.h5", *options) == 130
        plan, said = capsys.readouterr().err.splitlines()
        assert plan.startswith("plan: slq route, ")
        assert said == (
            f"interrupted: 2 of 6 probes are saved in {tmp_path / 's.h5'}; go on with the same command and --resume"
        )
        assert spectrum(*options) == 130
        assert "nothing is saved: with --output a run can be continued" in capsys.readouterr().err
    assert not read_spectrum(tmp_path / "s.h5").spectrum.complete
    assert spectrum("--output", tmp_path / "s.h5", "--resume", *options) == 0
    assert spectrum("--output", tmp_path / "whole.h5", *options) == 0
    assert datasets(tmp_path / "s.h5") == datasets(tmp_path / "whole.h5")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--seed", "1"], "seed is 0 there and 1 now"),
        (["--steps", "9"], "steps is 12 there and 9 now"),
        (["--probes", "2"], "has 4 probes already"),
        (["--dtype", "float64"], "dtype is float32 there and float64 now"),
        (["--cost", "kl"], "cost is cross-entropy there and kl now"),
        (["--layers", "0"], "layers is * there and 0 now"),
    ],
)
def test_resuming_under_other_settings_is_refused(
    spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    output = tmp_path / "s.h5"
    assert spectrum("--output", output, "--probes", "4") == 0
    before = output.read_bytes()
    assert spectrum("--output", output, "--probes", "4", "--resume", *options) == 2
    assert words in capsys.readouterr().err
    assert output.read_bytes() == before


def test_resuming_with_another_checkpoint_or_other_data_is_refused(
    spectrum: Run, checkpoint: Path, tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.h5"
    assert spectrum("--output", output) == 0
    assert spectrum("--output", output, "--resume", "--probes", "12", task="other_data") == 2
    assert "cannot be resumed: data_sha256 is" in capsys.readouterr().err
    torch.save(tiny.network().state_dict(), checkpoint)
    assert spectrum("--output", output, "--resume", "--probes", "12") == 2
    assert "cannot be resumed: checkpoint_sha256 is" in capsys.readouterr().err


def test_show_repeats_what_was_computed(spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spectrum("--output", tmp_path / "s.h5", "--json", "--per-layer") == 0
    computed = printed(capsys)
    assert main(["show", str(tmp_path / "s.h5"), "--json"]) == 0
    shown = printed(capsys)
    assert computed.pop("files") == {"spectrum": str(tmp_path / "s.h5")}
    assert shown.pop("files") == {}
    assert shown == computed


def test_common_probes_cancel_in_a_difference(
    spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert spectrum("--deflate", "0", "--seed", seed, "--output", tmp_path / f"{name}.h5") == 0
    capsys.readouterr()
    assert main(["show", str(tmp_path / "a.h5"), "--against", str(tmp_path / "b.h5"), "--json"]) == 0
    same = printed(capsys)
    assert same["common_probes"]
    assert same["differences"]["trace"]["difference"]["standard_error"] == pytest.approx(0.0, abs=1e-6)
    assert main(["show", str(tmp_path / "a.h5"), "--against", str(tmp_path / "c.h5"), "--json"]) == 0
    apart = printed(capsys)
    assert not apart["common_probes"]
    assert "seed is 0 and 1, so they are taken as independent" in apart["reason"]
    trace = apart["differences"]["trace"]
    errors = [trace[side]["standard_error"] for side in ("first", "second", "difference")]
    assert errors[2] == pytest.approx(np.hypot(errors[0], errors[1]))
    assert main(["show", str(tmp_path / "a.h5"), "--against", str(tmp_path / "c.h5")]) == 0
    assert "independent" in capsys.readouterr().out


@pytest.mark.parametrize(
    "engines, words",
    [
        (("dense", "slq"), "the first is exact, so the error is that of the other alone"),
        (("slq", "dense"), "the second is exact, so the error is that of the other alone"),
        (("dense", "dense"), "both are exact, so the difference is too"),
    ],
)
def test_an_exact_side_has_no_probes(
    spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], engines: tuple[str, str], words: str
) -> None:
    for name, engine in zip("ab", engines, strict=True):
        assert spectrum("--deflate", "0", "--engine", engine, "--output", tmp_path / f"{name}.h5") == 0
    capsys.readouterr()
    assert main(["show", str(tmp_path / "a.h5"), "--against", str(tmp_path / "b.h5"), "--json"]) == 0
    found = printed(capsys)
    assert found["reason"] == words
    assert not found["common_probes"]
    trace = found["differences"]["trace"]
    both = trace["first"]["standard_error"] + trace["second"]["standard_error"]
    assert trace["difference"]["standard_error"] == pytest.approx(both)


def test_a_difference_is_that_of_the_summaries(spectrum: Run, tmp_path: Path) -> None:
    assert spectrum("--output", tmp_path / "a.h5") == 0
    assert spectrum("--output", tmp_path / "b.h5", task="other_data") == 0
    first, second = (read_spectrum(tmp_path / f"{name}.h5") for name in "ab")
    result = compare(first, second, shifts=[0.5])
    left, right = (summarise(stored, shifts=[0.5]) for stored in (first, second))
    found = result.rows["log det at 0.5"][2]
    assert found is not None
    assert left.shifts[0].logdet is not None
    assert right.shifts[0].logdet is not None
    assert found.value == pytest.approx(left.shifts[0].logdet.value - right.shifts[0].logdet.value)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("scale", ["symlog", "linear"])
def test_plot_draws_a_stored_spectrum(
    spectrum: Run, tmp_path: Path, scale: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spectrum("--output", tmp_path / "s.h5") == 0
    assert main(["plot", str(tmp_path / "s.h5"), "--scale", scale]) == 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(tmp_path / "s.h5")]) == 2
    assert "exists: use --overwrite" in capsys.readouterr().err
    assert main(["plot", str(tmp_path / "s.h5"), "--output", str(tmp_path / "s.svg")]) == 0
    assert b"<svg" in (tmp_path / "s.svg").read_bytes()


def test_costs_and_defaults_are_the_library_s() -> None:
    assert set(COSTS) == set(costs.BY_NAME)
    offered = inspect.signature(spectrum_command.spectrum).parameters
    for name, value in SpectrumSettings().as_dict().items():
        if name != "memory":
            assert offered[name].default == value, name
    assert read_bytes("--memory", offered["memory"].default) == SpectrumSettings().memory


def test_help_needs_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; from basinscope.cli.app import main; main(['spectrum', '--help']); "
        "print(sorted({'torch', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert "--operator" in done.stdout


def test_what_draws_nothing_waits_for_no_matplotlib() -> None:
    code = (
        "import sys; import basinscope.cli.volume_report, basinscope.cli.compare_show; "
        "from basinscope.runs import run_audit, run_bridge, run_compare, run_spectrum; "
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def ended_after_deflation(spectrum: Run, monkeypatch: pytest.MonkeyPatch, *options: str | Path) -> None:
    """A run that is interrupted when the deflation is done."""

    def interrupted(*arguments: Any, on_block: Callable[[Spectrum], None], **rest: Any) -> Spectrum:
        def stop(partial: Spectrum) -> None:
            on_block(partial)
            raise KeyboardInterrupt

        return compute.compute_spectrum(*arguments, on_block=stop, **rest)

    with monkeypatch.context() as patch:
        patch.setattr("basinscope.runs.spectrum.compute_spectrum", interrupted)
        patch.setattr("basinscope.runs.spectrum.LOOK_FROM", 0.0)
        assert spectrum(*options) == 130


def test_the_deflation_is_kept_and_shown_as_what_it_is(
    spectrum: Run,
    checkpoint: Path,
    tiny: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after_deflation = tmp_path / "s.h5"
    ended_after_deflation(spectrum, monkeypatch, "--deflate", "16", "--output", after_deflation)
    exact = torch.linalg.eigvalsh(dense_hessian(tiny, checkpoint)).numpy()
    _, look, said = capsys.readouterr().err.splitlines()
    assert look.startswith(f"first look, 16 of 50 dimensions: largest eigenvalues {exact[-1]:.4g}, ")
    assert f"the largest eigenvalues so far, and no probes yet, are saved in {after_deflation}; go on with" in said
    assert main(["show", str(after_deflation), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["complete"], found["probes_done"], found["logdets"]) == (False, 0, [])
    assert found["eigenvalues"][0]["value"] == pytest.approx(exact[-1], rel=1e-5)
    for name in ("trace", "frobenius_norm"):
        assert found[name]["standard_error"] is None
        assert found[name]["cautions"] == [
            "no probe is done yet: the part of the 16 deflated of 50 dimensions alone, what is missing unknown"
        ]
    low, high = found["frobenius_norm"]["interval95"]
    assert found["frobenius_norm"]["value"] == low < np.linalg.norm(exact) * (1 + 1e-5)
    assert high is None
    assert main(["show", str(after_deflation)]) == 0
    shown = capsys.readouterr().out
    assert "16 dimensions without sampling, then 0 of 8 probes so far" in shown
    assert "log det" not in shown
    assert main(["plot", str(after_deflation), "--output", str(tmp_path / "plot.svg")]) == 0
    assert "the 16 deflated of 50 dimensions alone: no probes yet" in (tmp_path / "plot.svg").read_text()
    assert spectrum("--deflate", "16", "--output", after_deflation, "--resume") == 0
    assert spectrum("--deflate", "16", "--output", tmp_path / "whole.h5") == 0
    assert datasets(after_deflation) == datasets(tmp_path / "whole.h5")


def test_top_eigenpairs_are_kept_shown_and_those_of_the_dense_hessian(
    spectrum: Run, checkpoint: Path, tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix, output = dense_hessian(tiny, checkpoint).numpy(), tmp_path / "s.h5"
    exact = np.linalg.eigvalsh(matrix)
    options = ("--output", output, "--dtype", "float64", "--json")
    assert spectrum(*options) == 0
    assert printed(capsys)["top"] is None
    # A complete file is given what it lacks, and then nothing more is computed.
    assert spectrum(*options, "--resume", "--top", "4", "--keep-vectors") == 0
    captured = capsys.readouterr()
    assert "and those of the top eigenpairs, at least " in captured.err
    top = json.loads(captured.out)["top"]
    expected = [*exact[::-1][:4], *exact[:4]]
    assert [pair["value"] for pair in top["pairs"]] == pytest.approx(expected, rel=1e-8)
    assert all(pair["converged"] for pair in top["pairs"])
    stored = read_spectrum(output).spectrum
    assert stored.top is not None
    for number, value in enumerate(expected):
        vector = np.concatenate([part.ravel() for part in stored.eigenvector(number).values()])
        # A vector is known to the root of what its value is.
        assert np.allclose(matrix @ vector, value * vector, atol=1e-6)
    assert spectrum(*options, "--resume", "--top", "3") == 0
    assert capsys.readouterr().err == ""
    assert main(["show", str(output)]) == 0
    shown = capsys.readouterr().out
    assert f"largest 1      {exact[-1]:.6g}" in shown
    assert f"below zero 1   {exact[0]:.6g}" in shown
    assert "8 of 8 pairs converged" in shown


def test_more_eigenpairs_than_parameters_or_vectors_of_none_are_refused(
    spectrum: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spectrum("--top", "51") == 2
    assert capsys.readouterr().err == "--top must be at most the 50 parameters, got 51\n"
    assert spectrum("--keep-vectors") == 2
    assert "--keep-vectors needs --top K" in capsys.readouterr().err


def test_a_quick_look_takes_60_products_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = Path(__file__).parents[3] / "data" / "digits_mlp" / "clean_seed0_step00640.pt"
    words = ["spectrum", str(digits), "--strategy", "double-backward", "--output", str(tmp_path / "q.h5")]
    assert main([*words, "--quick"]) == 0
    captured = capsys.readouterr()
    plan, look = captured.err.splitlines()
    assert plan.startswith("plan: slq route, 60 products, about ")
    assert look.startswith("quick look: rough")
    assert "4 probes of 8 steps (rough), 60 products" in captured.out
    trace = read_spectrum(tmp_path / "q.h5").spectrum.density.trace()
    # The trace by 8 probes of 64 steps with 120 dimensions deflated is 4.371 ± 0.042; Student t with 3 degrees of
    # freedom passes 6 with probability 0.9 %, at a seed that is fixed.
    assert abs(trace.value - 4.371) < 6.0 * trace.standard_error < 1.0
    assert main([*words, "--resume", "--quick", "--top", "1"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    # What few steps do not resolve is not denied where it was found.
    assert "below zero: -0.00132 was found one by one: this is not a minimum; probes resolve" in page
    stored = read_spectrum(tmp_path / "q.h5").spectrum
    assert stored.top is not None
    assert stored.products == 60 + stored.top.products
    assert main([*words, "--resume"]) == 2
    assert "holds a quick look of 8 steps a probe, which cannot be made finer" in capsys.readouterr().err
    assert main([*words, "--resume", "--quick", "--probes", "6"]) == 0
    assert "4 of 6 probes are stored and kept; 44 products" in capsys.readouterr().err
    assert main([*words[:4], "--quick", "--steps", "9"]) == 2
    assert "--quick chooses --steps and --deflate itself" in capsys.readouterr().err


def test_a_quick_look_at_a_small_model_is_exact(spectrum: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 50 parameters 60 products give the whole spectrum, though there is no room to deflate 20 dimensions."""
    assert spectrum("--engine", "auto", "--steps", "64", "--quick", "--json") == 0
    assert printed(capsys)["route"] == "dense"
