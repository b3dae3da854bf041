"""Log-probabilities and losses of hidden states, whole and in chunks."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.worked import SINGLE, worked
from training.models import lm_head
from training.models.lm_head import head_loss, log_softmax_at, token_logprobs
from training.objectives.sft import cross_entropy


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


class TestLogProbs:
    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_temperature_divides_the_logits(self, temperature):
        inputs, expected = worked("logprob_with_temperature")
        logprobs, entropies = log_softmax_at(
            inputs["logits"],
            inputs["actions"],
            temperature=temperature,
            banned_token=None,
            with_entropy=True,
        )
        numbers = expected[f"T={temperature}"]
        assert_close(logprobs.double(), numbers["logprob"], **SINGLE)
        assert_close(entropies.double(), numbers["entropy"], **SINGLE)

    def test_a_banned_token_has_probability_0_and_the_others_are_renormalized(self):
        logits = drawn(1, 6) * 3
        logits[0, 2] = 50.0
        every = torch.arange(6)
        logprobs, entropies = log_softmax_at(
            logits.expand(6, 6), every, temperature=0.7, banned_token=2, with_entropy=True
        )
        others = every != 2
        alone, alone_entropy = log_softmax_at(
            logits[:, others].expand(5, 5),
            torch.arange(5),
            temperature=0.7,
            banned_token=None,
            with_entropy=True,
        )
        assert_close(logprobs[others], alone)
        assert logprobs[2].exp() == 0
        assert_close(entropies, alone_entropy[:1].expand(6))

    def test_logits_of_lower_precision_are_converted_to_fp32(self):
        logits = drawn(2, 300).bfloat16()
        tokens = torch.tensor([3, 4])
        logprobs, _ = log_softmax_at(
            logits, tokens, temperature=1.0, banned_token=None, with_entropy=False
        )
        assert logprobs.dtype == torch.float32
        exact = logits.double().log_softmax(-1)[[0, 1], [3, 4]]
        assert_close(logprobs.double(), exact, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("banned_token", [None, 4])
    @pytest.mark.parametrize("rows", [1, 7, 16])
    def test_numbers_and_gradients_do_not_depend_on_the_chunk_size(
        self, monkeypatch, rows, banned_token
    ):
        def run(limit):
            monkeypatch.setattr(lm_head, "LOGIT_CHUNK", limit)
            head = nn.Linear(8, 20)
            with torch.no_grad():
                head.weight.copy_(drawn(20, 8, seed=1))
                head.bias.copy_(drawn(20, seed=2))
            hidden = drawn(17, 8).requires_grad_()
            tokens = torch.arange(17) % 4
            score = partial(
                token_logprobs,
                hidden,
                head,
                tokens,
                vocab_size=20,
                temperature=0.7,
                banned_token=banned_token,
            )
            logprobs, entropies = score(with_entropy=True)
            (logprobs * drawn(17, seed=3)).sum().backward()
            with torch.no_grad():
                again = score(with_entropy=True)
            return logprobs, entropies, *again, hidden.grad, head.weight.grad, head.bias.grad

        for chunked, whole in zip(run(rows * 20), run(10**9), strict=True):
            assert_close(chunked, whole)


def clipped(logprobs, where):
    """A loss with a kink, like PPO's: weighted by token, and flat beyond -2."""
    weights = torch.linspace(-1.0, 2.0, 1300)[where]
    return (weights * logprobs.clamp(min=-2.0).exp()).sum()


def plainly(hidden, weight, tokens, token_loss, temperature, banned_token):
    """Compute it by autograd, from full logits in float64."""
    hidden = hidden.detach().double().requires_grad_()
    weight = weight.detach().double().requires_grad_()
    logits = hidden @ weight.T / temperature
    if banned_token is not None:
        logits = logits.index_fill(1, torch.tensor([banned_token]), -torch.inf)
    logprobs = logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]
    loss = token_loss(logprobs, slice(0, len(tokens)))
    (loss * 0.37).backward()
    return loss.detach(), logprobs.detach(), hidden.grad, weight.grad


class TestHeadLoss:
    @pytest.mark.parametrize("token_loss", [cross_entropy, clipped])
    @pytest.mark.parametrize(("temperature", "banned_token"), [(1.0, None), (0.7, 4)])
    @pytest.mark.parametrize("count", [1, 512, 1300])
    def test_loss_and_gradients_equal_those_of_autograd(
        self, monkeypatch, count, temperature, banned_token, token_loss
    ):
        monkeypatch.setattr(lm_head, "LOSS_BLOCK", 11 * 500)  # 500 rows at a time
        monkeypatch.setattr(lm_head, "SOFTMAX_CHUNK", 11 * 70)
        tokens = torch.arange(count) % 4
        tokens[::3] += 5
        hidden, weight = drawn(count, 8).requires_grad_(), drawn(11, 8, seed=1).requires_grad_()
        loss, logprobs = head_loss(
            hidden,
            weight,
            tokens,
            token_loss,
            temperature=temperature,
            banned_token=banned_token,
            dtype=torch.float32,
        )
        (loss * 0.37).backward()
        expected = plainly(hidden, weight, tokens, token_loss, temperature, banned_token)
        # fp32 sums over up to 1,300 rows against float64.
        close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-4}
        assert_close(loss.detach().double(), expected[0], **close)
        assert_close(logprobs.double(), expected[1], rtol=1e-5, atol=1e-5)
        assert_close(hidden.grad.double(), expected[2], rtol=1e-5, atol=1e-6)
        assert_close(weight.grad.double(), expected[3], **close)
        assert not logprobs.requires_grad
        if banned_token is not None:
            assert (weight.grad[banned_token] == 0).all()

    def test_numbers_without_gradients_are_equal(self):
        tokens = torch.tensor([1, 2, 3])
        run = partial(
            head_loss, drawn(3, 8), tokens=tokens, token_loss=cross_entropy, banned_token=4,
            dtype=torch.float32,
        )  # fmt: skip
        weight = drawn(11, 8, seed=1).requires_grad_()
        with torch.no_grad():
            plain = run(weight=weight)
        for found, expected in zip(run(weight=weight), plain, strict=True):
            assert_close(found, expected)

    def test_gradients_add_to_those_of_a_tied_embedding(self):
        weight = drawn(11, 8, seed=1).requires_grad_()
        tokens = torch.tensor([1, 2, 3])

        def gradient(of):
            (found,) = torch.autograd.grad(of, weight)
            return found

        loss, _ = head_loss(
            weight[tokens], weight, tokens, cross_entropy, banned_token=None, dtype=torch.float32
        )
        plain = nn.functional.cross_entropy(weight[tokens] @ weight.T, tokens, reduction="sum")
        assert_close(gradient(loss), gradient(plain))

    def test_a_micro_batch_without_targets_has_loss_and_gradients_0(self):
        hidden, weight = drawn(0, 8).requires_grad_(), drawn(11, 8).requires_grad_()
        tokens = torch.zeros(0, dtype=torch.long)
        loss, logprobs = head_loss(
            hidden, weight, tokens, cross_entropy, banned_token=4, dtype=torch.float32
        )
        loss.backward()
        assert loss.item() == 0.0
        assert logprobs.shape == (0,)
        assert (weight.grad == 0).all()

    def test_bf16_products_are_close_to_fp32(self):
        hidden, weight = drawn(600, 8), drawn(11, 8, seed=1)
        tokens = torch.arange(600) % 11
        losses = [
            head_loss(hidden, weight, tokens, cross_entropy, banned_token=None, dtype=dtype)[0]
            for dtype in (torch.float32, torch.bfloat16)
        ]
        assert_close(losses[1], losses[0], rtol=2e-3, atol=0)  # bf16 keeps 8 bits a product
