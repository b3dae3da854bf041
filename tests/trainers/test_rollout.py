from training.data.encode import EncodedPrompt
from training.trainers.ppo.rollout import list_jobs


def prompt(number: int) -> EncodedPrompt:
    return EncodedPrompt(number, [number], f"prompt {number}", {})


def test_a_prompt_that_comes_twice_in_a_batch_gets_further_samples():
    jobs = list_jobs([prompt(7), prompt(8), prompt(7)], samples_per_prompt=2)
    keys = [(job.prompt_id, sample) for job, sample in jobs]
    assert keys == [(7, 0), (7, 1), (8, 0), (8, 1), (7, 2), (7, 3)]
