import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basinscope.tasks import make_landscape, task_name
from spectra.checkpoint import read_checkpoint
from spectra.costs import kl_from_anchor
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, Hessian

Folder = Callable[..., Path]


def task(path: Path, **options: Any) -> Landscape:
    given = {"text": path / "text.txt", "length": 10, "dtype": "float64"} | options
    return make_landscape(f"causal-lm:{','.join(f'{k}={v}' for k, v in given.items())}", read_checkpoint(path))


def loaded(path: Path, dtype: torch.dtype = torch.float64) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


def at(landscape: Landscape, theta: Tensor) -> Any:
    """The landscape's own model with other parameters in it, tied ones too."""
    with torch.no_grad():
        for name, value in landscape.parameters.unflatten(theta).items():
            landscape.model.get_parameter(name).copy_(value)
    return landscape.model


def token_by_token(path: Path, model: Any, length: int, paragraphs: bool = False) -> list[tuple[Tensor, int]]:
    """Logits before each predicted token, and the token, one forward pass each; the test's tokens are bytes."""
    from tokenizers import pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    number = {sign: place for place, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    spelling, text = bytes_to_unicode(), (path / "text.txt").read_text()
    found = []
    for part in text.split("\n\n") if paragraphs else [text]:
        tokens = [number[spelling[byte]] for byte in part.encode()]
        for start in range(0, len(tokens), length):
            piece = tokens[start : start + length]
            for end in range(1, len(piece)):
                with torch.no_grad():
                    logits = model(torch.tensor([piece[:end]])).logits[0, -1]
                found.append((logits, piece[end]))
    return found


@pytest.mark.parametrize("name", ["neox", "llama"])
def test_cross_entropy_is_the_mean_over_tokens_of_a_plain_loop(folder: Folder, small: ModuleType, name: str) -> None:
    path = folder(getattr(small, name)())
    known = token_by_token(path, loaded(path), 10)
    expected = sum(float(F.cross_entropy(logits, torch.tensor(token))) for logits, token in known) / len(known)
    for batch in (1, 3, 100):
        landscape = task(path, batch=batch)
        assert landscape.cost() == pytest.approx(expected, rel=1e-6)  # rotary angles and norms of Llama are float32
        assert landscape.total_weight == len(known)


def test_paragraphs_padded_are_the_mean_over_their_tokens(folder: Folder) -> None:
    path = folder()
    known = token_by_token(path, loaded(path), 30, paragraphs=True)
    expected = sum(float(F.cross_entropy(logits, torch.tensor(token))) for logits, token in known) / len(known)
    landscape = task(path, length=30, pack="no", batch=4)
    assert landscape.cost() == pytest.approx(expected, rel=1e-6)
    assert landscape.total_weight == len(known)


def test_the_divergence_is_the_mean_over_tokens_of_a_plain_loop(folder: Folder) -> None:
    path = folder()
    landscape = task(path).with_cost(kl_from_anchor)
    step = torch.randn(landscape.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = landscape.theta + 0.02 * step
    before = token_by_token(path, loaded(path), 10)
    after = token_by_token(path, at(task(path), moved), 10)
    pairs = zip(before, after, strict=True)
    expected = sum(
        float(F.kl_div(b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="sum"))
        for (a, _), (b, _) in pairs
    )
    assert landscape.cost(moved) == pytest.approx(expected / len(before), rel=1e-6)
    assert expected > 0.01
    assert abs(landscape.cost()) < 1e-12


def test_it_is_transformers_own_loss(folder: Folder) -> None:
    path = folder()
    landscape = task(path, length=21, sequences=4)
    with torch.no_grad():
        tokens = [batch.inputs["input_ids"] for batch in landscape.batches]
        losses = [float(loaded(path)(one, labels=one).loss) for one in tokens]
    assert landscape.cost() == pytest.approx(sum(losses) / 4, rel=1e-6)


@pytest.mark.parametrize("cost", ["cross-entropy", "kl"])
def test_padding_changes_nothing(folder: Folder, cost: str) -> None:
    """Other numbers in the padding, and a longer one, leave cost, gradient and curvature as they are."""
    path = folder()
    plain = task(path, length=30, pack="no", batch=9)
    (batch,) = plain.batches
    tokens, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    noise = torch.randint(0, 256, tokens.shape, generator=torch.Generator().manual_seed(0))
    other = {"input_ids": F.pad(torch.where(mask == 1, tokens, noise), (0, 5)), "attention_mask": F.pad(mask, (0, 5))}
    changed = Landscape(plain.model, plain.cost_function, [(other, F.pad(batch.targets, (0, 5), value=-100))])
    if cost == "kl":
        plain, changed = plain.with_cost(kl_from_anchor), changed.with_cost(kl_from_anchor)
    moved = plain.theta * (1.0 + 0.01 * torch.cos(torch.arange(plain.size)))
    assert changed.cost(moved) == pytest.approx(plain.cost(moved), rel=1e-9)
    torch.testing.assert_close(changed.gradient(moved), plain.gradient(moved), rtol=1e-7, atol=1e-10)
    vector = torch.sin(torch.arange(plain.size, dtype=torch.float64))
    products = [GaussNewton(one, strategy="double-vjp").matvec(vector) for one in (plain, changed)]
    torch.testing.assert_close(products[0], products[1], rtol=1e-7, atol=1e-10)


def differences(landscape: Landscape, vector: Tensor, step: float = 1e-4) -> Tensor:
    ahead, behind = (landscape.gradient(landscape.theta + sign * step * vector) for sign in (1.0, -1.0))
    return (ahead - behind) / (2.0 * step)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", ["double-backward", "recorded", "auto"])
def test_the_hessian_of_neox_is_the_difference_of_gradients(folder: Folder, strategy: str) -> None:
    landscape = task(folder(), sequences=4)
    vector = torch.randn(landscape.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    vector /= vector.norm()
    found = Hessian(landscape, strategy=strategy).matvec(vector)
    torch.testing.assert_close(found, differences(landscape, vector), rtol=1e-5, atol=1e-6 * float(found.norm()))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", ["double-vjp", "recorded", "auto"])
def test_gauss_newton_of_neox_is_the_difference_of_the_divergences_gradients(folder: Folder, strategy: str) -> None:
    """At its anchor the Hessian of the divergence is the Gauss-Newton matrix of the cross-entropy."""
    landscape = task(folder(), sequences=4, length=30, pack="no", batch=2)
    vector = torch.randn(landscape.size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    vector /= vector.norm()
    found = GaussNewton(landscape, strategy=strategy).matvec(vector)
    expected = differences(landscape.with_cost(kl_from_anchor), vector)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(found.norm()))


def test_the_hessian_of_tied_weights_and_grouped_queries(folder: Folder, small: ModuleType) -> None:
    """Llama's norms compute in float32 whatever the weights, so the differences are coarse."""
    landscape = task(folder(small.llama()), sequences=4)
    assert "lm_head.weight" not in landscape.parameters.names
    vector = torch.randn(landscape.size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    vector /= vector.norm()
    found = Hessian(landscape, strategy="double-backward").matvec(vector)
    error = (found - differences(landscape, vector, 3e-2)).norm() / found.norm()
    assert float(error) < 1e-2


@pytest.mark.parametrize("tied", [True, False])
def test_the_row_of_the_padding_token_moves_where_it_is_one_of_the_head(
    folder: Folder, small: ModuleType, tied: bool
) -> None:
    # A byte of the text, so that the row is looked up too: SmolLM2 pads with the sign that ends a message.
    model = small.llama(tie_word_embeddings=tied, pad_token_id=69)
    with torch.no_grad():  # it is made of zeros, where the norm after it has no smooth derivative
        model.model.embed_tokens.weight[69] = model.model.embed_tokens.weight[70]
    landscape = task(folder(model))
    parts = landscape.parameters.unflatten(torch.zeros_like(landscape.theta))
    parts["model.embed_tokens.weight"][69, 0] = 1.0
    vector = landscape.parameters.flatten(parts)
    above, below = (landscape.cost(landscape.theta + step * vector) for step in (1e-2, -1e-2))
    slope = (above - below) / 2e-2
    assert float(landscape.gradient() @ vector) == pytest.approx(slope, rel=1e-2, abs=1e-9)
    assert (slope != 0.0) is tied
    assert any("held constant, as in training" in note for note in landscape.notes) is not tied


def test_half_precision_weights_have_single_precision_vectors_and_double_sums(folder: Folder) -> None:
    path = folder(loaded_as_half(folder(name="first")), name="half")
    half = task(path, dtype="auto")
    assert half.parameters.dtypes[0] == torch.bfloat16
    assert half.dtype == half.gradient().dtype == torch.float32
    costs = [F.cross_entropy(logits.float(), torch.tensor(token)) for logits, token in oracle_of_half(half)]
    assert half.cost() == pytest.approx(math.fsum(float(cost) for cost in costs) / len(costs), rel=1e-7)
    single = task(path, dtype="float32")
    vector = torch.randn(half.size, generator=torch.Generator().manual_seed(6))
    for operator in (Hessian, GaussNewton):
        found, exact = operator(half).matvec(vector), operator(single).matvec(vector)
        assert found.dtype == torch.float32
        assert float((found - exact).norm() / exact.norm()) < 0.1  # eight bits of mantissa, two layers
    anchored = half.with_cost(kl_from_anchor)
    assert abs(anchored.cost()) < 1e-9
    assert next(anchored.iterate()).targets.dtype == torch.float32


def loaded_as_half(path: Path) -> nn.Module:
    return loaded(path, torch.bfloat16)


def oracle_of_half(landscape: Landscape) -> list[tuple[Tensor, int]]:
    """Logits of the model as the landscape runs it, sequence by sequence."""
    found = []
    for batch in landscape.batches:
        with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            logits = landscape.model.eval()(**batch.inputs).logits
        rows = zip(logits.reshape(-1, 256), batch.targets.reshape(-1).tolist(), strict=True)
        found += [(one, token) for one, token in rows if token != -100]
    return found


def test_a_folder_names_its_own_task(folder: Folder) -> None:
    path = folder()
    checkpoint = read_checkpoint(path)
    assert task_name(None, checkpoint) == "causal-lm"
    assert task_name("text=a.txt,length=8", checkpoint) == "causal-lm:text=a.txt,length=8"
    assert checkpoint.metadata["architectures"] == ["GPTNeoXForCausalLM"]
    # transformers has another name for the last layer in memory than in the file.
    names = {name.replace("lm_head", "embed_out") for name, _ in loaded(path).named_parameters()}
    assert set(checkpoint.parameters) == names


def test_notes_say_what_is_read(folder: Folder) -> None:
    path = folder()
    assert "4 sequences of 10 tokens from text.txt; 7 more are left out by sequences=4" in task(path, sequences=4).notes
    assert "11 sequences of 10 tokens from text.txt" in task(path, sequences=0).notes


def published(path: Path) -> None:
    """As Pythia was published: bin with the buffers of its day, half precision, keys that have other names now."""
    from safetensors.torch import load_file

    weights = {name: tensor.half() for name, tensor in load_file(path / "model.safetensors").items()}
    (path / "model.safetensors").unlink()
    config = json.loads((path / "config.json").read_text())
    for layer in range(config["num_hidden_layers"]):
        start = f"gpt_neox.layers.{layer}.attention"
        weights[f"{start}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
        weights[f"{start}.masked_bias"] = torch.tensor(-1e9).half()
        weights[f"{start}.rotary_emb.inv_freq"] = torch.ones(2).half()
    torch.save(weights, path / "pytorch_model.bin")
    keys = ("architectures", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range")
    keys += ("intermediate_size", "layer_norm_eps", "max_position_embeddings", "model_type", "num_attention_heads")
    keys += ("num_hidden_layers", "tie_word_embeddings", "use_cache", "use_parallel_residual", "vocab_size")
    kept = {key: config[key] for key in keys}
    old = {"rotary_emb_base": 10000, "rotary_pct": 0.25, "torch_dtype": "float16", "transformers_version": "4.29.2"}
    (path / "config.json").write_text(json.dumps(kept | old))


def test_pythias_published_layout(folder: Folder, small: ModuleType) -> None:
    model = small.neox(num_attention_heads=1, hidden_size=16)
    path = folder(model)
    published(path)
    landscape = task(path, dtype="float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    expected = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    assert torch.equal(landscape.theta, expected)
    batch = next(iter(landscape.batches))
    torch.testing.assert_close(landscape.outputs()[0][:1], model.eval()(**batch.inputs).logits[:1].detach())


@pytest.mark.slow
def test_pythia_31m(folder: Folder, small: ModuleType) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8}
    path = folder(small.neox(vocab_size=50304, max_position_embeddings=2048, **sizes))
    published(path)
    landscape = task(path, dtype="float32", length=16, sequences=2)
    assert landscape.size == 30_494_720
    vector = torch.randn(landscape.size, generator=torch.Generator().manual_seed(0))
    vector *= landscape.theta.norm() / vector.norm()
    curved = float(vector @ GaussNewton(landscape, strategy="double-vjp").matvec(vector))
    step = 1e-4
    moved = landscape.with_cost(kl_from_anchor).cost(landscape.theta + step * vector)
    assert moved == pytest.approx(0.5 * step**2 * curved, rel=0.05)


def test_a_file_of_weights_with_the_folder_of_its_model(folder: Folder, tmp_path: Path) -> None:
    path = folder()
    model = loaded(path, torch.float32)
    torch.save({"model": model.state_dict(), "step": 7}, tmp_path / "training.pt")
    checkpoint = read_checkpoint(tmp_path / "training.pt")
    name = f"causal-lm:text={path / 'text.txt'},length=10,model={path}"
    assert torch.equal(make_landscape(name, checkpoint).theta, task(path, dtype="float32").theta)
