"""The parts of `check_rule`: points, derivatives, what to expect, and the judgment."""
