"""A run that is stopped anywhere and started again ends as one that never was: to the last bit."""

FLAGS = {
    "sft": "--num_epochs 1 --max_steps 8 --eval_every 3 --batch_size 4 --learning_rate 1e-2",
    "reward": "--max_steps 6 --eval_every 2 --batch_size 2 --normalization_samples 8",
    "ppo": "--max_steps 5 --rollout_batch_size 6 --minibatch_size 3 --ppo_epochs 2 "
    "--max_new_tokens 8 --kl_controller adaptive --kl_target 0.1 --actor_lr 1e-3 --eval_every 2",
}
SAME = ("metrics.jsonl", "samples.jsonl", "model.safetensors", "config.json")
