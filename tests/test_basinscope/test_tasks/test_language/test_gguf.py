import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from basinscope.cli import main
from basinscope.tasks import make_landscape, task_name
from spectra.checkpoint import read_checkpoint
from spectra.landscape import Landscape

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

WIDTH, HEADS, KEYS, INNER, BLOCK = 64, 2, 1, 96, 32
TEXT = "the other day there was this thing, and that other thing. " * 3


def tokens() -> list[str]:
    from tokenizers import pre_tokenizers

    return ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]


def shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    layer = {
        "attn_q.weight": (WIDTH, WIDTH),
        "attn_k.weight": (WIDTH * KEYS // HEADS, WIDTH),
        "attn_v.weight": (WIDTH * KEYS // HEADS, WIDTH),
        "attn_output.weight": (WIDTH, WIDTH),
        "ffn_gate.weight": (INNER, WIDTH),
        "ffn_up.weight": (INNER, WIDTH),
        "ffn_down.weight": (WIDTH, INNER),
        "attn_norm.weight": (WIDTH,),
        "ffn_norm.weight": (WIDTH,),
    }
    blocks = {f"blk.0.{name}": shape for name, shape in layer.items()}
    return {"token_embd.weight": (vocabulary, WIDTH), **blocks, "output_norm.weight": (WIDTH,)}


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, NDArray[np.uint8]]]:
    """A Llama of one layer as llama.cpp writes it, matrices in Q4_1; and the bytes of its matrices."""
    path, written = tmp_path / "tiny.gguf", {}
    writer = gguf.GGUFWriter(str(path), "llama")
    words = tokens()
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    generator = np.random.default_rng(0)
    for name, shape in shapes(len(words)).items():
        values = generator.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, np.abs(values))
            continue
        written[name] = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, written[name], raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "text.txt").write_text(TEXT)
    return path, written


def dequantised(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Q4_1 by its definition: 32 values a block of 20 bytes, a scale d and a least value m in half precision, then
    nibbles q, the low ones first: d q + m."""
    whole = []
    for row in rows:
        values: list[float] = []
        for start in range(0, len(row), 20):
            block = row[start : start + 20].tobytes()
            scale, least = struct.unpack("<ee", block[:4])
            quants = [byte & 15 for byte in block[4:]] + [byte >> 4 for byte in block[4:]]
            values += [scale * quant + least for quant in quants]
        whole.append(values)
    return np.array(whole, dtype=np.float32)


def unpaired(matrix: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp has a head's two rotary halves interleaved; transformers has one after the other."""
    width = len(matrix) // heads
    order = [head * width + place for head in range(heads) for place in (*range(0, width, 2), *range(1, width, 2))]
    return matrix[order]


def task(path: Path, **options: object) -> Landscape:
    given = {"text": path.parent / "text.txt", "length": 16} | options
    return make_landscape(f"causal-lm:{','.join(f'{k}={v}' for k, v in given.items())}", read_checkpoint(path))


def test_tensors_are_those_of_a_plain_dequantisation(model: tuple[Path, dict[str, NDArray[np.uint8]]]) -> None:
    path, written = model
    landscape = task(path)
    found = {name: tensor.numpy() for name, tensor in landscape.parameters.unflatten(landscape.theta).items()}
    layer = "model.layers.0"
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.attn_v.weight": f"{layer}.self_attn.v_proj.weight",
        "blk.0.attn_output.weight": f"{layer}.self_attn.o_proj.weight",
        "blk.0.ffn_gate.weight": f"{layer}.mlp.gate_proj.weight",
        "blk.0.ffn_up.weight": f"{layer}.mlp.up_proj.weight",
        "blk.0.ffn_down.weight": f"{layer}.mlp.down_proj.weight",
    }
    for name, ours in pairs.items():
        np.testing.assert_allclose(found[ours], dequantised(written[name]), rtol=1e-6, atol=1e-7)
    for name, ours, heads in (("attn_q", "q_proj", HEADS), ("attn_k", "k_proj", KEYS)):
        expected = unpaired(dequantised(written[f"blk.0.{name}.weight"]), heads)
        np.testing.assert_allclose(found[f"{layer}.self_attn.{ours}.weight"], expected, rtol=1e-6, atol=1e-7)
    assert landscape.size == sum(int(np.prod(shape)) for shape in shapes(len(tokens())).values())
    assert "lm_head.weight" not in found  # tied, for the file has no output.weight


def test_cost_and_tokens_are_those_of_the_file(model: tuple[Path, dict[str, NDArray[np.uint8]]]) -> None:
    """Greedy merges by hand: "the" and "th" are the only ones."""
    path, _ = model
    words = {word: number for number, word in enumerate(tokens())}
    spelled, rest = [], TEXT.replace(" ", "Ġ")
    while rest:
        word = next(word for word in ("the", "th", rest[0]) if rest.startswith(word))
        spelled.append(words[word])
        rest = rest[len(word) :]
    landscape = task(path, sequences=0)
    batches = list(landscape.batches)
    rows = torch.cat([batch.inputs["input_ids"].reshape(-1) for batch in batches])
    assert rows[: len(spelled)].tolist() == spelled
    costs = []
    for start in range(0, len(spelled), 16):
        piece = torch.tensor([spelled[start : start + 16]])
        with torch.no_grad():
            logits = landscape.model.eval()(piece).logits[0]
        costs += F.cross_entropy(logits[:-1], piece[0, 1:], reduction="none").tolist()
    assert landscape.cost() == pytest.approx(sum(costs) / len(costs), rel=1e-5)


def test_a_spectrum_from_the_command_line(
    model: tuple[Path, dict[str, NDArray[np.uint8]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = model
    assert task_name(None, read_checkpoint(path)) == "causal-lm"
    name = f"text={path.parent / 'text.txt'},length=8,sequences=3"
    words = ["spectrum", str(path), "--task", name, "--operator", "gauss-newton", "--probes", "1", "--steps", "3"]
    assert main([*words, "--engine", "slq", "--strategy", "double-vjp", "--dtype", "float64"]) == 0
    printed = capsys.readouterr()
    assert "Converting" not in printed.err
    assert "3 sequences of 8 tokens from text.txt" in printed.out + printed.err


def test_without_the_packages_for_it(
    model: tuple[Path, dict[str, NDArray[np.uint8]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, _ = model
    known: Callable[[str], object] = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "accelerate" else known(name))
    assert main(["spectrum", str(path), "--task", f"text={path.parent / 'text.txt'}"]) == 2
    assert "task causal-lm needs accelerate for" in capsys.readouterr().err


@pytest.mark.parametrize("stated", [10_000_000, 2**31, 200])
def test_more_layers_than_tensors(
    model: tuple[Path, dict[str, NDArray[np.uint8]]], stated: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = model
    (path.parent / "text.txt").write_text(TEXT)
    content = path.read_bytes()
    place = content.index(b"llama.block_count") + len(b"llama.block_count") + 4
    path.write_bytes(content[:place] + struct.pack("<I", stated) + content[place + 4 :])
    assert main(["spectrum", str(path), "--task", f"causal-lm:text={path.parent / 'text.txt'},length=8"]) == 2
    assert f"states {stated:,} layers (llama.block_count), more than its" in capsys.readouterr().err
