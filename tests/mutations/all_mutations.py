"""All faults, in the order in which they are printed."""

from tests.mutations.mutation import Mutation

MUTATIONS: list[Mutation] = []
