"""All faults, in the order in which they are printed."""

from tests.mutations import (
    annotation,
    data,
    evaluation,
    generation,
    launching,
    models,
    objectives,
    runs,
)
from tests.mutations.mutation import Mutation

MUTATIONS: list[Mutation] = [
    *objectives.MUTATIONS,
    *generation.MUTATIONS,
    *models.MUTATIONS,
    *data.MUTATIONS,
    *annotation.MUTATIONS,
    *runs.MUTATIONS,
    *launching.MUTATIONS,
    *evaluation.MUTATIONS,
]
