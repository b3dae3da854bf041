"""Rules by which stages 1 and 2 fill their rows."""

from typing import Any

from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data.packing import RowRules
from training.models.cpu_blocks import can_skip_padding
from training.models.loading import can_read_blocks, check_packing

# Hidden sizes of width at which a row's attention costs as much as the rest of its tokens:
# measured on a CPU; by operations alone it would be 6.
ATTENTION_WIDTH = 3.0


def row_rules(args: SFTArgs | RewardArgs, backbone: Any, *, longest_row: int) -> RowRules:
    """The rules of a run; a model that cannot keep sequences of one row apart is never packed."""
    config, packing = backbone.config, args.packing
    check_packing(config, packing)
    if not can_read_blocks(config):
        packing = "never"
    width = ATTENTION_WIDTH * config.hidden_size
    padding_cost = 0.0 if can_skip_padding(backbone) else 1.0
    return RowRules(packing, args.micro_batch_tokens, longest_row, width, padding_cost)
