"""Flags of each stage in the quickstart, tuned on dev films alone."""

from dataclasses import replace

from examples.common.recipe import Base, Recipe, Task, make_smoke_recipe

MOVIES = Task(
    folder="examples/movie_reviews",
    output="quickstart",
    title="Write the review that people rated higher",
    group_by="movie",
    judge_text_after="Review:",
    notes="examples/movie_reviews/report_notes.json",
)

FULL = Recipe(
    task=MOVIES,
    example="movie_reviews",
    # At most one pass over the text; the limit in seconds is for slower machines.
    pretrain="--objective lm --optimizer muon --learning_rate 1.6e-2 --muon_lr 1e-2 "
    "--weight_decay 0.1 --max_length 128 --batch_size 16 --max_steps 1000 --max_seconds 200 "
    "--warmup_ratio 0.04 --min_lr_ratio 0.02 --log_every 100 --eval_every 1000",
    sft="--learning_rate 1.5e-3 --num_epochs 2 --batch_size 32 --log_every 50",
    reward="--learning_rate 7e-4 --num_epochs 2 --batch_size 4 --log_every 50",
    ppo="--max_steps 32 --rollout_batch_size 192 --minibatch_size 96 --ppo_epochs 2 "
    "--actor_lr 3e-4 --critic_lr 3e-4 --warmup_ratio 0.075 --max_prompt_length 48 "
    "--max_new_tokens 40 --kl_controller adaptive --kl_coef 0.3 --kl_target 5.5 --kl_horizon 768 "
    "--max_eval_rows 200 --log_every 4",
    test_prompts=600,
    kl_target=5.5,
)

SMOKE = make_smoke_recipe(MOVIES, "movie_reviews_smoke", max_prompt_length=48)

# A pretrained model of 135 million parameters with LoRA, whose text is readable. The model that is
# pretrained here is the reader, which measures perplexity.
SMOLLM2 = Recipe(
    task=replace(
        MOVIES,
        output="quickstart_smollm2",
        notes="examples/movie_reviews/report_notes_smollm2.json",
    ),
    example="movie_reviews",
    pretrain="--objective lm --optimizer muon --learning_rate 3e-3 --muon_lr 1e-2 "
    "--weight_decay 0.1 --max_length 128 --batch_size 16 --max_steps 500 --max_seconds 150 "
    "--warmup_ratio 0.04 --min_lr_ratio 0.02 --log_every 100 --eval_every 500",
    sft="--lora_rank 16 --micro_batch_tokens 1024 --learning_rate 5e-4 --max_steps 32 "
    "--batch_size 32 --max_length 128 --max_eval_rows 128 --log_every 4",
    reward="--lora_rank 16 --micro_batch_tokens 1024 --learning_rate 5e-4 --max_steps 40 "
    "--batch_size 4 --max_length 128 --max_eval_rows 16 --normalization_samples 96 "
    "--normalization_new_tokens 32 --log_every 5",
    # A value head on the actor's trunk saves a critic of 135 million parameters, which in as many
    # steps predicted worse than the mean. Lambda below 1 taught the actor to stop early (seen with
    # that critic), and so did a penalty on responses without an end. More steps gave shorter text
    # and no higher win rate (20 steps: 6.3 words, 16: 8.6).
    ppo="--lora_rank 16 --critic shared --micro_batch_tokens 768 --max_steps 16 "
    "--rollout_batch_size 64 --minibatch_size 64 --ppo_epochs 1 --gae_lambda 1 --actor_lr 8e-4 "
    "--min_lr_ratio 0.2 --warmup_ratio 0.05 --max_prompt_length 64 --max_new_tokens 40 "
    "--missing_eos none --kl_controller adaptive --kl_coef 0.1 --kl_target 4 --kl_horizon 256 "
    "--max_eval_rows 32 --log_every 1",
    test_prompts=600,
    kl_target=4.0,
    base="smollm2",
    best_of=("4",),
)

# Too few steps to learn anything, but every program runs on the real model.
SMOLLM2_SMOKE = replace(
    SMOLLM2,
    example=SMOKE.example,
    pretrain=SMOKE.pretrain,
    sft="--lora_rank 8 --learning_rate 5e-4 --max_steps 4 --batch_size 8 --max_length 128 "
    "--max_eval_rows 16 --log_every 1",
    reward="--lora_rank 8 --learning_rate 5e-4 --max_steps 4 --batch_size 2 --max_length 128 "
    "--responses_per_group 4 --max_eval_rows 2 --normalization_samples 16 "
    "--normalization_new_tokens 16 --log_every 1",
    ppo="--lora_rank 8 --critic shared --max_steps 2 --rollout_batch_size 8 --minibatch_size 8 "
    "--ppo_epochs 1 --gae_lambda 1 --actor_lr 5e-4 --max_prompt_length 64 --max_new_tokens 16 "
    "--missing_eos none --kl_coef 0.1 --max_eval_rows 8 --log_every 1",
    test_prompts=16,
    best_of=(),
)

RECIPES: dict[tuple[Base, bool], Recipe] = {
    ("tiny", False): FULL,
    ("tiny", True): SMOKE,
    ("smollm2", False): SMOLLM2,
    ("smollm2", True): SMOLLM2_SMOKE,
}
