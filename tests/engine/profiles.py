"""How long property tests and state machines search:

Always the same examples, so that nobody's luck decides.
"""

from hypothesis import Phase, settings

STEADY = settings(deadline=None, derandomize=True)
MODEST = settings(STEADY, max_examples=60, stateful_step_count=30)
MANY = settings(MODEST, max_examples=1000, stateful_step_count=60)
CATCH = settings(MODEST, max_examples=3000, phases=[Phase.generate], database=None)
"""For mutants: the first failure is enough, nobody reads a small example of it. Many, as hypothesis
draws on constants of all modules that are loaded, so that which it finds first depends on them."""
