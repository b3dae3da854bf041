"""The settings of the Chinese quickstart: which flags each stage gets. Tuned on dev rows alone."""

from examples.common.recipe import Base, Recipe, Task

CHINESE = Task(
    folder="examples/chinese_reviews",
    output="quickstart_chinese",
    title="Go on with a Chinese review as a content customer would",
    group_by="opening",
    judge_text_after="评论：",
    tokenizer="--tokenizer sentencepiece --vocab_size 4096",
)
NOTES = "examples/chinese_reviews/report_notes.json"

FULL = Recipe(
    task=CHINESE,
    example="chinese_reviews",
    # Some seven passes over the text, which is short.
    pretrain="--objective lm --optimizer muon --learning_rate 3e-3 --muon_lr 1e-2 "
    "--weight_decay 0.1 --max_length 128 --batch_size 16 --max_steps 1200 "
    "--warmup_ratio 0.04 --min_lr_ratio 0.02 --log_every 100 --eval_every 600",
    sft="--learning_rate 1.5e-3 --num_epochs 2 --batch_size 32 --log_every 50",
    reward="--learning_rate 7e-4 --num_epochs 2 --batch_size 8 --group_average pair_mean "
    "--log_every 50",
    # A KL target of 5.5, as for the films, won more often on dev (0.94 instead of 0.88) with text
    # that repeated itself: distinct-2 0.53 instead of 0.61, where SFT has 0.80.
    ppo="--max_steps 40 --rollout_batch_size 192 --minibatch_size 96 --ppo_epochs 2 "
    "--actor_lr 3e-4 --critic_lr 3e-4 --warmup_ratio 0.075 --max_prompt_length 24 "
    "--max_new_tokens 40 --kl_controller adaptive --kl_coef 0.3 --kl_target 3 --kl_horizon 768 "
    "--max_eval_rows 200 --log_every 4",
    test_prompts=600,
    kl_target=3.0,
    notes=NOTES,
)

# The same path in small, by step counts, so that a run can be repeated to the last digit.
SMOKE = Recipe(
    task=CHINESE,
    example="chinese_reviews_smoke",
    pretrain="--objective lm --optimizer muon --learning_rate 3e-3 --muon_lr 1e-2 "
    "--weight_decay 0.1 --max_length 128 --batch_size 16 --max_steps 80 --max_eval_rows 100 "
    "--log_every 20",
    sft="--learning_rate 2e-3 --num_epochs 1 --batch_size 32 --max_steps 20 --max_eval_rows 100 "
    "--log_every 10",
    reward="--learning_rate 1e-3 --num_epochs 1 --batch_size 4 --max_steps 40 --log_every 20 "
    "--normalization_samples 128",
    ppo="--max_steps 6 --rollout_batch_size 96 --minibatch_size 48 --ppo_epochs 2 "
    "--actor_lr 5e-4 --critic_lr 5e-4 --warmup_ratio 0.1 --max_prompt_length 24 "
    "--max_new_tokens 40 --kl_coef 0.1 --max_eval_rows 48 --log_every 2",
    test_prompts=100,
    kl_target=6.0,
    notes=NOTES,
)

RECIPES: dict[tuple[Base, bool], Recipe] = {("tiny", False): FULL, ("tiny", True): SMOKE}
