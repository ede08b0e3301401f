"""Reading checkpoints: every shape they come in, and every way in which they can be wrong."""

import argparse
import hashlib
import os
import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from spectra.checkpoint import adam_moments, load_into, read_checkpoint


class Payload:
    """Runs a command when unpickled by anything that runs code."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def network(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def write(path, content):
    torch.save(content, path)
    return path


def stepped_adam(model, parameters):
    """Two steps of Adam on a fixed batch; returns the optimizer."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    inputs = torch.linspace(-1, 1, 15).reshape(5, 3)
    for _ in range(2):
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
    return optimizer


def assert_refused(path, *parts):
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        read_checkpoint(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict", "module"])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_in_their_usual_places(tmp_path, key, zipped):
    model, other = network(), network()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    path = tmp_path / "model.bin"
    content = model.state_dict() if key is None else {key: model.state_dict(), "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == ({} if key is None else {"epoch": 3})
    assert checkpoint.optimizer is None
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    load_into(checkpoint, other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict", "optimizer_states"])
def test_optimizer_is_found_in_its_usual_places(tmp_path, key):
    model = network()
    state = stepped_adam(model, model.parameters()).state_dict()
    content = {"state_dict": model.state_dict(), key: [state] if key == "optimizer_states" else state}
    checkpoint = read_checkpoint(write(tmp_path / "lightning.ckpt", content))
    assert checkpoint.optimizer.keys() == {"state", "param_groups"}
    assert checkpoint.metadata == {}


def test_metadata_is_every_plain_value(tmp_path):
    content = {
        "model": network().state_dict(),
        "step": torch.tensor(7),
        "rng_state": torch.get_rng_state(),
        "scheduler": {"last_epoch": 2, "rates": [0.1, None]},
        "metadata": {"task": "digits", "step": 5},
    }
    metadata = read_checkpoint(write(tmp_path / "model.pt", content)).metadata
    assert metadata == {"task": "digits", "step": 7, "scheduler": {"last_epoch": 2, "rates": [0.1, None]}}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapper_prefixes_are_taken_off(tmp_path, prefix):
    wrapped = {prefix + name: value for name, value in network().state_dict().items()}
    checkpoint = read_checkpoint(write(tmp_path / "model.pt", wrapped))
    assert list(checkpoint.parameters) == list(network().state_dict())


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    weights = {"module.weight": torch.ones(1), "bias": torch.ones(1)}
    assert read_checkpoint(write(tmp_path / "model.pt", weights)).parameters.keys() == weights.keys()


def test_wrapped_models_take_plain_weights_and_the_other_way_round(tmp_path):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    plain, wrapped = network(), Wrapper(network())
    optimizer = stepped_adam(plain, plain.named_parameters())
    content = {"model": plain.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint = read_checkpoint(write(tmp_path / "model.pt", content))
    load_into(checkpoint, wrapped)
    assert torch.equal(wrapped.module[0].weight, plain[0].weight)
    assert adam_moments(checkpoint, wrapped).first.keys() == dict(plain.named_parameters()).keys()
    load_into(read_checkpoint(write(tmp_path / "wrapped.pt", wrapped.state_dict())), plain)


def test_safetensors_is_known_by_its_content(tmp_path):
    path = tmp_path / "misnamed.pt"
    safetensors.torch.save_file(network().state_dict(), path, {"task": "digits", "step": "7"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == {"task": "digits", "step": "7"}
    assert torch.equal(checkpoint.parameters["0.weight"], network()[0].weight)
    with pytest.raises(ValueError, match="has no Adam state"):
        adam_moments(checkpoint, network())


def test_missing_folder_and_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt does not exist"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(IsADirectoryError, match="is a folder; name the checkpoint file inside it"):
        read_checkpoint(tmp_path)
    (tmp_path / "empty.pt").touch()
    assert_refused(tmp_path / "empty.pt", "is empty")


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_pickled_code_is_refused_and_never_run(tmp_path, form):
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    content = {"model": network().state_dict(), "extra": Payload(marker)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"extra": Payload(marker)}, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    name = f"{os.system.__module__}.system"
    assert_refused(path, f"contains pickled code ({name}); basinscope never runs it: save a state_dict")
    assert not marker.exists()


@pytest.mark.parametrize(
    "thing, name",
    [(network(), "torch.nn.modules"), (argparse.Namespace(lr=1), "argparse.Namespace")],
    ids=["whole model", "namespace"],
)
def test_pickled_objects_are_refused_by_name(tmp_path, thing, name):
    assert_refused(write(tmp_path / "object.pt", {"a": thing}), "contains pickled code (", name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_torch_files_are_refused(tmp_path, zipped, share):
    path = tmp_path / "cut.pt"
    torch.save(network(64).state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_refused(path, "is truncated")


@pytest.mark.parametrize("size", [12, 200, -4])
def test_truncated_safetensors_are_refused(tmp_path, size):
    path = tmp_path / "cut.safetensors"
    safetensors.torch.save_file(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(path, "is a truncated or damaged safetensors file")


def test_damaged_bytes_inside_are_refused(tmp_path):
    path = write(tmp_path / "damaged.pt", network().state_dict())
    content = bytearray(path.read_bytes())
    content[content.index(b"\x80\x02") + 5] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "is damaged: the checksum of its part data.pkl is not that of its bytes")


@pytest.mark.parametrize(
    "content, reason",
    [
        ([torch.ones(2)], "it holds a list, not a state dict"),
        (torch.ones(2), "it holds a Tensor, not a state dict"),
        ({}, "found nothing"),
        ({"epoch": 3, "model": {"weight": 1.0}}, "found 'epoch', 'model'"),
    ],
)
def test_torch_files_without_weights_are_refused(tmp_path, content, reason):
    assert_refused(write(tmp_path / "other.pt", content), "is not a checkpoint", reason)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    path.write_text("epoch,loss\n1,0.5\n")
    assert_refused(path, "is not a checkpoint: neither a torch nor a safetensors file")
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    assert_refused(path, "is not a checkpoint: a pickle that torch.save did not write")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert_refused(path, "is not a checkpoint: a zip archive that torch.save did not write")
    safetensors.torch.save_file({}, path, {"task": "digits"})
    assert_refused(path, "is not a checkpoint: it holds no tensors")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    assert_refused(path, "is a TorchScript archive, which holds code: save a state_dict instead")


def changed(state, name, value):
    """A state dict with one entry changed, or removed where ``value`` is None."""
    entries = {**state, name: value}
    return {key: entry for key, entry in entries.items() if entry is not None}


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("0.weight", torch.ones(4, 5), "0.weight has shape (4, 5) in {path} but (4, 3) in the model"),
        ("2.bias", None, "2.bias, of shape (2,) in the model, is not in {path}"),
        ("1.running_mean", None, "1.running_mean, of shape (4,) in the model, is not in {path}"),
        ("3.weight", torch.ones(7, 2), "3.weight, of shape (7, 2) in {path}, is not in the model"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_copied(tmp_path, name, value, sentence):
    other = {key: entry + 1 for key, entry in network().state_dict().items()}
    path = write(tmp_path / "model.pt", changed(other, name, value))
    model = network()
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        load_into(read_checkpoint(path), model)
    assert str(caught.value) == sentence.format(path=path)
    assert all(torch.equal(value, network().state_dict()[key]) for key, value in model.state_dict().items())


def test_the_first_difference_in_model_order_is_named(tmp_path):
    reversed_state = dict(reversed(network(5).state_dict().items()))
    with pytest.raises(ValueError, match=r"^0\.weight has shape \(5, 3\) in .* but \(4, 3\) in the model$"):
        load_into(read_checkpoint(write(tmp_path / "model.pt", reversed_state)), network())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.readout = nn.Linear(3, 5, bias=False)
        self.readout.weight = self.embedding.weight


@pytest.mark.parametrize("dropped", [None, "embedding.weight", "readout.weight"])
def test_tied_weights_need_only_one_name(tmp_path, dropped):
    saved, model = Tied(), Tied()
    path = write(tmp_path / "model.pt", changed(saved.state_dict(), dropped or "", None))
    load_into(read_checkpoint(path), model)
    assert model.readout.weight is model.embedding.weight
    assert torch.equal(model.embedding.weight, saved.embedding.weight)


def test_tied_weights_that_differ_are_refused(tmp_path):
    state = changed(Tied().state_dict(), "readout.weight", torch.ones(5, 3))
    path = write(tmp_path / "model.pt", state)
    with pytest.raises(ValueError, match=r"^embedding\.weight and readout\.weight are one parameter in the"):
        load_into(read_checkpoint(path), Tied())


def test_weights_take_the_dtype_of_the_model(tmp_path):
    path = write(tmp_path / "model.pt", {"weight": torch.tensor([[0.1]], dtype=torch.float64)})
    model = nn.Linear(1, 1, bias=False)
    load_into(read_checkpoint(path), model)
    assert model.weight.dtype == torch.float32
    assert model.weight.item() == pytest.approx(0.1)


def assert_moments_are_those_of(optimizer, moments, model, names):
    parameters = dict(model.named_parameters())
    assert list(moments.first) == list(moments.second) == names
    assert moments.step == 2
    for name in names:
        assert torch.equal(moments.first[name], optimizer.state[parameters[name]]["exp_avg"])
        assert torch.equal(moments.second[name], optimizer.state[parameters[name]]["exp_avg_sq"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_adam_by_name_whatever_the_order_and_groups(tmp_path, prefix):
    model = network()
    named = [(prefix + name, parameter) for name, parameter in model.named_parameters()][::-1]
    groups = [{"params": named[::2]}, {"params": named[1::2], "weight_decay": 0.1}]
    optimizer = stepped_adam(model, groups)
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint = read_checkpoint(write(tmp_path / "model.pt", content))
    names = [name.removeprefix(prefix) for name, _ in named[::2] + named[1::2]]
    assert_moments_are_those_of(optimizer, adam_moments(checkpoint, model), model, names)


@pytest.mark.parametrize("listed", ["all", "trained"])
@pytest.mark.parametrize("frozen", [[], ["0.weight", "1.bias"]])
def test_adam_by_order_with_frozen_parameters(tmp_path, listed, frozen):
    model = network()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    parameters = [p for p in model.parameters() if listed == "all" or p.requires_grad]
    optimizer = stepped_adam(model, parameters)
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint = read_checkpoint(write(tmp_path / "model.pt", content))
    names = [name for name, _ in model.named_parameters() if name not in frozen]
    assert_moments_are_those_of(optimizer, adam_moments(checkpoint, model), model, names)


def test_adam_of_tied_weights(tmp_path):
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters())
    model.readout(model.embedding(torch.tensor([1, 2]))).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    moments = adam_moments(read_checkpoint(write(tmp_path / "model.pt", content)), model)
    assert list(moments.first) == ["embedding.weight"]
    assert moments.step == 1


def test_adam_errors_are_one_sentence(tmp_path):
    model = network()
    weights = model.state_dict()

    def refused(optimizer, message, target=model):
        path = write(tmp_path / "model.pt", {"model": weights, "optimizer": optimizer})
        with pytest.raises(ValueError, match=message) as caught:
            adam_moments(read_checkpoint(path), target)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    refused(None, "has no Adam state$")
    refused(torch.optim.Adam(model.parameters()).state_dict(), "has no Adam state$")
    momentum = torch.optim.SGD(model.parameters(), momentum=0.9)
    momentum.zero_grad()
    model(torch.ones(4, 3)).sum().backward()
    momentum.step()
    refused(momentum.state_dict(), "has no Adam state: its optimizer keeps momentum_buffer$")

    by_order = stepped_adam(model, list(model.parameters())).state_dict()
    refused(by_order, "of 6 parameters but the model has 2, 2 of which require", nn.Linear(3, 4))
    refused(by_order, r"of 0\.weight have shape \(4, 3\) in .* but the parameter has \(5, 3\)", network(5))
    by_name = stepped_adam(model, list(model.named_parameters())).state_dict()
    refused(by_name, r"has Adam's moments of 0\.weight, which is not in the model$", nn.Linear(3, 4))
