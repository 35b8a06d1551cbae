"""What stored draws are worth: pass@k, maj@k, best-of-k, intervals over problems, and comparison at equal tokens.

Pure functions of arrays; rows are problems, columns draws, nan is unknown. Nothing here draws, asks or grades.
"""

from samplewise.measure.best import best_at
from samplewise.measure.compare import (
    Curve,
    FrontierPoint,
    Point,
    SignTest,
    adjust_holm,
    at_tokens,
    frontier,
    paired_difference,
    paired_p_value,
    sign_test,
)
from samplewise.measure.coverage import pass_at, pass_curve
from samplewise.measure.estimate import Estimate, mean_interval, mean_intervals
from samplewise.measure.majority import MAX_EXACT_DRAWS, majority_at

__all__ = [
    "MAX_EXACT_DRAWS",
    "Curve",
    "Estimate",
    "FrontierPoint",
    "Point",
    "SignTest",
    "adjust_holm",
    "at_tokens",
    "best_at",
    "frontier",
    "majority_at",
    "mean_interval",
    "mean_intervals",
    "paired_difference",
    "paired_p_value",
    "pass_at",
    "pass_curve",
    "sign_test",
]
