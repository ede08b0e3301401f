"""Models of transformers with `labels` in a mapping, as a Trainer's collator makes them: the cost is their own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectra.costs import CrossEntropy, binary_cross_entropy, cross_entropy, kl_from_anchor, mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.operators import Hessian

Make = Callable[[], nn.Module]
SIZES = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4, "vocab_size": 9}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 8}


def ids(rows: int, seed: int, length: int = 5, high: int = 9) -> Tensor:
    return torch.randint(1, high, (rows, length), generator=torch.Generator().manual_seed(seed))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=1, **off))


def bert(kind: str, **options: Any) -> nn.Module:
    import transformers

    config = transformers.BertConfig(**SIZES, **OFF, **options)
    return getattr(transformers, kind)(config)


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=9,
            d_model=4,
            d_kv=2,
            d_ff=4,
            num_layers=1,
            num_heads=1,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    )


def padded(rows: int, seed: int, labels: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    tokens = ids(rows, seed)
    mask = torch.ones_like(tokens)
    mask[0, 3:] = 0
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels(tokens)}


def ignoring(tokens: Tensor) -> Tensor:
    labels = tokens.clone()
    labels[0, 3:] = -100
    labels[:, 1] = -100
    return labels


def counted(batch: dict[str, Tensor], shifted: bool) -> int:
    labels = batch["labels"][..., 1:] if shifted else batch["labels"]
    return int((labels != -100).sum())


# Name, model, cost, labels of a batch, and whether the model shifts them.
MODELS: list[tuple[str, Make, Any, Callable[[Tensor], Tensor], bool]] = [
    ("causal", gpt2, cross_entropy, Tensor.clone, True),
    ("causal with ignored labels", gpt2, cross_entropy, ignoring, True),
    ("causal under torch's loss", gpt2, nn.CrossEntropyLoss(), ignoring, True),
    ("masked", lambda: bert("BertForMaskedLM"), cross_entropy, ignoring, False),
    ("tokens", lambda: bert("BertForTokenClassification", num_labels=9), cross_entropy, ignoring, False),
    (
        "sentences",
        lambda: bert("BertForSequenceClassification", num_labels=3),
        cross_entropy,
        lambda t: t[:, 0] % 3,
        False,
    ),
    (
        "several answers",
        lambda: bert("BertForSequenceClassification", num_labels=3, problem_type="multi_label_classification"),
        binary_cross_entropy,
        lambda t: (t[:, :3] % 2).double(),
        False,
    ),
    (
        "numbers",
        lambda: bert("BertForSequenceClassification", num_labels=2, problem_type="regression"),
        mean_squared_error,
        lambda t: t[:, :2].double(),
        False,
    ),
    ("encoder and decoder", t5, cross_entropy, ignoring, False),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("row", MODELS, ids=lambda row: row[0])
def test_the_cost_is_the_models_own_loss(row: Any) -> None:
    _, build, cost, labels, shifts = row
    torch.manual_seed(0)
    model = build().double().eval()
    batches = [padded(n, n, labels) for n in (3, 2)]
    landscape = Landscape(model, cost, batches)
    counts = [counted(batch, shifts) if labels is ignoring or shifts else len(batch["labels"]) for batch in batches]
    losses = [model(**batch).loss for batch in batches]
    truth = sum(count * loss for count, loss in zip(counts, losses, strict=True)) / sum(counts)
    assert landscape.cost() == pytest.approx(truth.item(), rel=1e-6)
    assert any("labels are shifted" in note for note in landscape.notes) == shifts
    parameters = [dict(model.named_parameters())[name] for name in landscape.parameters.names]
    slopes = torch.autograd.grad(truth, parameters, allow_unused=True)
    slope = torch.cat(
        [(torch.zeros_like(p) if s is None else s).reshape(-1) for s, p in zip(slopes, parameters, strict=True)]
    )
    # transformers computes these losses in float32, whatever the model's dtype.
    torch.testing.assert_close(landscape.gradient(), slope, rtol=1e-5, atol=1e-6)
    vector = torch.randn(landscape.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-3 / float(vector.norm())  # some of their norms are computed in float32
    ahead, behind = (landscape.gradient(landscape.theta + sign * step * vector) for sign in (1.0, -1.0))
    found, expected = Hessian(landscape).matvec(vector), (ahead - behind) / (2.0 * step)
    assert float((found - expected).norm()) <= 2e-3 * float(expected.norm())


def test_ignored_labels_are_shifted_under_the_divergence_too() -> None:
    torch.manual_seed(0)
    model = gpt2().double().eval()
    landscape = Landscape(model, cross_entropy, [padded(3, 3, ignoring)])
    assert landscape.with_cost(kl_from_anchor).total_weight == landscape.total_weight == 1 + 3 + 3


def test_a_loss_that_is_not_the_cost_is_refused() -> None:
    class Smoothed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = gpt2()

        def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
            found = self.inner(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
            if labels is not None:
                found.loss = found.loss * 1.5
            return found

    torch.manual_seed(0)
    with pytest.raises(
        UserError, match="the model's own loss on the labels of the first batch is .* shifted by one place"
    ):
        Landscape(Smoothed().double().eval(), cross_entropy, [padded(3, 3, Tensor.clone)])


def test_one_class_axis_is_told_from_the_other_by_the_task() -> None:
    """As many tokens as the vocabulary has: the built-in cost cannot tell, and says how it is told."""
    torch.manual_seed(0)
    tokens = ids(2, 0, length=9)
    batch = {"input_ids": tokens[:, :8], "attention_mask": torch.ones(2, 8, dtype=torch.int64)}
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=4, n_layer=1, n_head=1)).double().eval()
    batch = {**batch, "input_ids": batch["input_ids"] % 8, "labels": batch["input_ids"] % 8}
    with pytest.raises(UserError, match="which axis"):
        Landscape(model, cross_entropy, [batch])
    landscape = Landscape(model, CrossEntropy(class_axis=-1), [batch])
    assert landscape.cost() == pytest.approx(model(**batch).loss.item(), rel=1e-6)
