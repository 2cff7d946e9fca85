"""How long the state machines search: always the same examples, so that nobody's luck decides."""

from hypothesis import Phase, settings

MODEST = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
MANY = settings(MODEST, max_examples=3000, stateful_step_count=60)
CATCH = settings(MODEST, max_examples=500, phases=[Phase.generate], database=None)
"""For mutants: the first failure is enough, nobody reads a small example of it."""
