from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.tiny_models import (
    CPU,
    EOS_ID,
    PAD_ID,
    padded,
    readings,
    rows_of,
    scalar_model,
    scores,
)
from tests.worked import worked
from training.data.chat import TemplateTokenizer
from training.data.collate import collate_responses
from training.data.encode import encode_groups
from training.data.records import Pair, ResponseGroup
from training.inference import ResponseForwards, read_token_values
from training.models.scalar import (
    MLP_WIDTH,
    Pooling,
    ScalarModel,
    ScalarSettings,
    build_head,
    build_scalar_model,
    pool_prefixes,
)
from training.objectives.reward import pairwise_losses
from training.runtime.distributed import World

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # fp32, values of order 1
WORLD = World(0, 1, CPU)
POOLINGS: list[Pooling] = ["last", "mean", "weighted_mean"]
PROMPTS = rows_of([4, 9, 2, 6], seed=1)
RESPONSES = [[*row, EOS_ID] for row in rows_of([7, 1, 5, 3], seed=2)]
ROWS = [[*p, *r] for p, r in zip(PROMPTS, RESPONSES, strict=True)]


def forwards(prompts, responses, token_budget=4096):
    return ResponseForwards(
        prompts, responses, token_budget=token_budget, pad_id=PAD_ID, world=WORLD
    )


class TestReadings:
    @pytest.mark.parametrize(("left", "right"), [(0, 0), (6, 0), (0, 6), (3, 4)])
    def test_they_do_not_depend_on_padding_or_neighbours(self, model, left, right):
        alone = [readings(model, [row])[0] for row in ROWS]
        assert_close(readings(model, ROWS, left=left, right=right), alone, **CLOSE)
        last = torch.stack([row[-1] for row in alone])
        assert_close(scores(model, ROWS, left=left, right=right), last, **CLOSE)
        assert last.std() > 0.05  # the rows do differ

    def test_the_content_of_padding_does_not_matter(self, model):
        clean = readings(model, ROWS, left=2, right=2)
        for fill in (0, EOS_ID):
            assert_close(readings(model, ROWS, left=2, right=2, fill=fill), clean, **CLOSE)

    def test_gradients_do_not_depend_on_micro_batches_or_padding(self, model):
        def accumulate(parts, **padding):
            for part in parts:
                tokens, mask = padded([ROWS[i] for i in part], **padding)
                ScalarModel.scores(model(tokens, mask), mask).square().sum().backward()
            found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            model.zero_grad()
            return found

        whole = accumulate([[0, 1, 2, 3]])
        split = accumulate([[3], [0, 2], [1]], left=3, right=1)
        size = max(gradient.abs().max().item() for gradient in whole.values())
        for name, gradient in whole.items():
            assert_close(split[name], gradient, rtol=1e-4, atol=1e-5 * size, msg=name)

    def test_normalization_shifts_and_scales_the_raw_reading(self, lm_folders):
        raw = scalar_model(lm_folders["gpt2"], ScalarSettings())
        scaled = scalar_model(lm_folders["gpt2"], ScalarSettings(score_mean=0.3, score_std=1.7))
        assert_close(scores(scaled, ROWS), (scores(raw, ROWS) - 0.3) / 1.7, **CLOSE)


class TestPooling:
    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_padding_may_hold_anything(self, pooling):
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(2, 5, 3, generator=generator)
        mask = torch.tensor([[False, True, True, True, False], [True, True, False, False, False]])
        dirty = hidden.masked_fill(~mask[..., None], float("nan"))
        pooled = pool_prefixes(dirty, mask, pooling)
        for row in range(2):
            alone = pool_prefixes(hidden[row, mask[row]][None], mask[row, mask[row]][None], pooling)
            assert_close(pooled[row, mask[row]], alone[0])

    def test_by_hand(self):
        hidden = torch.tensor([[[9.0], [1.0], [4.0], [9.0], [10.0]]])
        mask = torch.tensor([[False, True, True, False, True]])
        numbers = {
            "last": [1.0, 4.0, 10.0],
            "mean": [1.0, 2.5, 5.0],
            "weighted_mean": [1.0, 9 / 3, 39 / 6],
        }
        for pooling in POOLINGS:
            pooled = pool_prefixes(hidden, mask, pooling)
            assert_close(pooled[mask].squeeze(1), torch.tensor(numbers[pooling]))


def values_of(model, responses):
    return responses.read_tokens(lambda batch: [read_token_values(model, batch)])[0]


class TestCritic:
    @pytest.mark.parametrize("token_budget", [4096, 24])
    def test_the_value_at_t_is_the_reading_before_token_t(self, model, token_budget):
        values = values_of(model, forwards(PROMPTS, RESPONSES, token_budget))
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            before = [[*prompt, *response[:t]] for t in range(len(response))]
            expected = torch.stack([scores(model, [prefix])[0] for prefix in before])
            assert_close(values[row, : len(response)], expected, **CLOSE)
            assert (values[row, len(response) :] == 0).all()

    def test_values_do_not_depend_on_later_tokens(self, model):
        values = values_of(model, forwards(PROMPTS, RESPONSES))[0]
        for t in range(len(RESPONSES[0])):
            changed = [*RESPONSES[0][:t], *((token + 1) % 93 for token in RESPONSES[0][t:])]
            others = values_of(model, forwards(PROMPTS, [changed, *RESPONSES[1:]]))[0]
            assert_close(others[: t + 1], values[: t + 1], **CLOSE)
            if t + 1 < len(changed):  # and after it, it has seen the change
                assert (others[t + 1 :] - values[t + 1 :]).abs().min() > 1e-4


class TestScores:
    @pytest.mark.parametrize("token_budget", [4096, 24, 1])
    def test_they_are_in_the_order_of_the_responses_for_any_micro_batches(
        self, model, token_budget
    ):
        found = forwards(PROMPTS, RESPONSES, token_budget).compute_scores(model)
        assert_close(found, scores(model, ROWS), **CLOSE)

    def test_a_score_depends_on_the_last_token(self, model):
        unended = [[*row[:-1], (row[-1] + 1) % 93] for row in ROWS]
        assert (scores(model, unended) - scores(model, ROWS)).abs().max() > 0.01

    def test_stage_2_trains_on_eos(self, model, tokenizer):
        record = ResponseGroup("w1 w2", ("w3 w4", "w5"), (Pair(0, 1),), "a:1")
        (outcome,) = encode_groups([record], TemplateTokenizer(tokenizer), max_length=32)
        group = outcome.row
        assert group is not None
        batch = collate_responses(
            [group.prompt_ids] * 2, group.response_ids, pad_id=PAD_ID, device=CPU
        )
        embedded = []
        embedding = model.backbone.get_input_embeddings()

        def keep(module, inputs, output):
            output.retain_grad()
            embedded.append(output)

        with embedding.register_forward_hook(keep):
            chosen, rejected = ScalarModel.scores(
                model(batch.input_ids, batch.attention_mask), batch.attention_mask
            )
        ones, zeros = torch.ones(1), torch.zeros(1)
        pairwise_losses(chosen[None], rejected[None], ones, zeros, label_smoothing=0.0).backward()
        gradient = embedded[0].grad
        ends = batch.input_ids == EOS_ID
        assert ends.sum(dim=1).tolist() == [1, 1]
        assert (gradient[ends].abs().amax(dim=1) > 1e-5).all()
        assert (gradient[~batch.attention_mask] == 0).all()


class TestHeads:
    def test_the_linear_head_starts_with_the_expected_spread(self):
        inputs, expected = worked("head_init")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            heads: list[Any] = [build_head("linear", inputs["d_model"]) for _ in range(40)]
        weights = torch.cat([head.weight for head in heads])
        # 30,720 draws: the standard error of their spread is 0.4 %.
        assert weights.std().item() == pytest.approx(expected["reward_head_std"], rel=0.02)
        assert weights.mean().abs() < 0.001

    def test_the_mlp_head_has_one_hidden_layer_and_the_expected_spread(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            heads: list[Any] = [build_head("mlp", 32) for _ in range(40)]
        shapes = [(m.in_features, m.out_features) for m in heads[0] if isinstance(m, nn.Linear)]
        assert shapes == [(32, 512), (512, 1)]
        assert isinstance(heads[0][1], nn.ReLU)
        last = torch.cat([head[2].weight for head in heads])
        assert last.std().item() == pytest.approx((MLP_WIDTH + 1) ** -0.5, rel=0.02)
        assert all((head[2].bias == 0).all() for head in heads)

    def test_a_new_head_depends_on_its_seed_alone(self, lm_folders):
        def head(seed):
            model = build_scalar_model(
                lm_folders["gpt2"],
                ScalarSettings(head="mlp"),
                device=CPU,
                compute_dtype=torch.float32,
                seed=seed,
            )
            return torch.cat([parameter.flatten() for parameter in model.head.parameters()])

        first = head(3)
        torch.rand(5)
        state = torch.get_rng_state()
        assert head(3).equal(first)
        assert not head(4).equal(first)
        assert torch.get_rng_state().equal(state)
