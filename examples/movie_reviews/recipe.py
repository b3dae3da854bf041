"""The settings of the quickstart: which flags each stage gets. Tuned on dev films alone."""

from dataclasses import dataclass

TINY_MODEL = "examples/movie_reviews/gpt2_tiny.json"


@dataclass(frozen=True)
class Recipe:
    """Flags of the four programs, less the paths and the seed."""

    example: str  # the name of the prepared data
    pretrain: str
    sft: str
    reward: str
    ppo: str
    test_prompts: int
    kl_target: float


FULL = Recipe(
    example="movie_reviews",
    # One cycle of at most one pass over the text; the bound in seconds is for slower machines.
    pretrain="--objective lm --optimizer muon --learning_rate 3e-3 --muon_lr 1e-2 "
    "--weight_decay 0.1 --max_length 128 --batch_size 16 --max_steps 1400 --max_seconds 200 "
    "--warmup_ratio 0.04 --min_lr_ratio 0.02 --log_every 100 --eval_every 1400",
    sft="--learning_rate 1.5e-3 --num_epochs 2 --batch_size 32 --log_every 50",
    reward="--learning_rate 7e-4 --num_epochs 2 --batch_size 4 --log_every 50",
    ppo="--max_steps 40 --rollout_batch_size 192 --minibatch_size 96 --ppo_epochs 2 "
    "--actor_lr 3e-4 --critic_lr 3e-4 --warmup_ratio 0.075 --max_prompt_length 48 "
    "--max_new_tokens 40 --kl_controller adaptive --kl_coef 0.3 --kl_target 5.5 --kl_horizon 768 "
    "--max_eval_rows 200 --log_every 4",
    test_prompts=600,
    kl_target=5.5,
)

# The same path in small, by step counts, so that a run can be repeated to the last digit.
SMOKE = Recipe(
    example="movie_reviews_smoke",
    pretrain="--objective lm --optimizer muon --learning_rate 3e-3 --muon_lr 1e-2 "
    "--weight_decay 0.1 --max_length 128 --batch_size 16 --max_steps 80 --max_eval_rows 100 "
    "--log_every 20",
    sft="--learning_rate 2e-3 --num_epochs 1 --batch_size 32 --max_steps 20 --max_eval_rows 100 "
    "--log_every 10",
    reward="--learning_rate 1e-3 --num_epochs 1 --batch_size 4 --max_steps 40 --log_every 20 "
    "--normalization_samples 128",
    ppo="--max_steps 6 --rollout_batch_size 96 --minibatch_size 48 --ppo_epochs 2 "
    "--actor_lr 5e-4 --critic_lr 5e-4 --warmup_ratio 0.1 --max_prompt_length 48 "
    "--max_new_tokens 40 --kl_coef 0.1 --max_eval_rows 48 --log_every 2",
    test_prompts=100,
    kl_target=6.0,
)

SHUFFLED_REWARD = "--shuffle_labels true"
NO_KL_PPO = "--kl_controller fixed --kl_coef 0"
