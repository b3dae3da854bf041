"""Mistakes in flags of the chat, the quick start and the benchmarks."""

from tests.stages.mistakes.tools import Case, use_flags

CHAT: dict[str, Case] = {
    **{
        f"chat: {name}": ("chat", flags, expected)
        for name, flags, expected in (
            ("no such model", use_flags("--model", "./no"), ["--model", "./no"]),
            ("a reward model", lambda p: ["--model", p.reward], ["--model", "a reward model"]),
            ("a mode", use_flags("--mode", "song"), ["--mode", "song"]),
            ("no tokens", use_flags("--max_new_tokens", "0"), ["--max_new_tokens", "0"]),
            ("cold", use_flags("--temperature", "-1"), ["--temperature", "-1"]),
            ("misspelt", use_flags("--modle", "x"), ["--modle"]),
            (
                "turns in a frame",
                use_flags("--mode", "chat", "--prompt_template", "Q: {prompt}"),
                ["--prompt_template", "--chat_template"],
            ),
            (
                "no template",
                use_flags("--chat_template", "no.jinja"),
                ["--chat_template", "no.jinja"],
            ),
        )
    }
}
OTHERS: dict[str, Case] = {
    "quickstart: misspelt": ("quickstart", use_flags("--smok"), ["--smok"]),
    "quickstart: an example": ("quickstart", use_flags("--example", "cats"), ["--example", "cats"]),
    "quickstart: a base": ("quickstart", use_flags("--base", "gpt5"), ["--base", "gpt5"]),
    "quickstart: a seed": ("quickstart", use_flags("--seed", "-1"), ["--seed", "-1"]),
    "quickstart: a base without the language": (
        "quickstart",
        use_flags("--example", "chinese_reviews", "--base", "smollm2"),
        ["--base smollm2"],
    ),
    "quickstart: an output below a file": (
        "quickstart",
        lambda p: ["--output_dir", p.file("x", "taken") + "/out"],
        ["--output_dir", "taken"],
    ),
    **{
        f"benchmarks.{name}: misspelt": (
            f"benchmarks.{name}",
            use_flags("--siez", "tiny"),
            ["--siez"],
        )
        for name in ("memory", "ppo", "rankings", "reward", "rollout", "sft", "zero")
    },
    "benchmarks: a size": ("benchmarks.sft", use_flags("--size", "huge"), ["--size", "huge"]),
    "benchmarks: no pairs": ("benchmarks.ppo", use_flags("--pairs", "0"), ["--pairs", "0"]),
    "benchmarks: ranks": (
        "benchmarks.zero",
        use_flags("--ranks", "3"),
        ["--batch (32)", "--ranks", "3"],
    ),
    "benchmarks: ragged": (
        "benchmarks.reward",
        use_flags("--shortest", "300"),
        ["--shortest", "--answer", "300"],
    ),
    "benchmarks: a zero stage": (
        "benchmarks.memory",
        use_flags("--zero_stages", "4"),
        ["--zero_stages", "4"],
    ),
    "benchmarks: a folder for the result": (
        "benchmarks.rollout",
        lambda p: ["--json", p.file("x", "taken") + "/r.json"],
        ["--json", "taken"],
    ),
}
