"""Metrics over stored draws: pass@k, maj@k, best-of-k, intervals over problems, and comparison at equal tokens.

Pure functions of arrays; rows are problems, columns draws, nan is unknown. Nothing here draws, asks or grades.
"""

from samplewise.measure._bootstrap import RatioEstimate
from samplewise.measure.best import best_at
from samplewise.measure.blindspots import BlindSpots, blind_spots, chao2
from samplewise.measure.clustering import Clustering, analyse_clustering, between_arm_variance, effective_draws
from samplewise.measure.compare import (
    Curve,
    FrontierPoint,
    MethodAtCost,
    SignTest,
    adjust_holm,
    at_tokens,
    frontier,
    paired_difference,
    paired_p_value,
    sign_test,
)
from samplewise.measure.coverage import pass_at, pass_curve
from samplewise.measure.dispersion import Dispersion, log_dispersion, mean_deviation
from samplewise.measure.estimate import Estimate, mean_interval, mean_intervals
from samplewise.measure.gain import (
    Fidelity,
    Gain,
    bound_growth,
    certain_dispersion,
    certified_reused,
    effective_gain,
    even_allocation,
    fidelity,
    two_factor_gain,
)
from samplewise.measure.majority import MAX_EXACT_DRAWS, majority_at
from samplewise.measure.margins import MarginReport, margin_pieces, vote_margins
from samplewise.measure.powers import (
    ArmCounts,
    counts_by_arm,
    failure_power,
    independent_failure,
    reused_failure,
    stratified_failure,
)
from samplewise.measure.shortlist import Shortlist, judge_shortlist, shortlist_at
from samplewise.measure.spread import (
    Divergence,
    answer_divergence,
    distinct_answers,
    distinct_k,
    semantic_entropy,
    utility,
    vendi,
)
from samplewise.measure.texts import Embed, character_grams, cosines, edit_similarity, jaccard, relevance
from samplewise.measure.transitions import Transitions, count_transitions, detectable_gain, mcnemar
from samplewise.measure.verdict import Compared, EffectVerdict, Findings, Word, give_verdict

__all__ = [
    "MAX_EXACT_DRAWS",
    "ArmCounts",
    "BlindSpots",
    "Clustering",
    "Compared",
    "Curve",
    "Dispersion",
    "Divergence",
    "EffectVerdict",
    "Embed",
    "Estimate",
    "Fidelity",
    "Findings",
    "FrontierPoint",
    "Gain",
    "MarginReport",
    "MethodAtCost",
    "RatioEstimate",
    "Shortlist",
    "SignTest",
    "Transitions",
    "Word",
    "adjust_holm",
    "analyse_clustering",
    "answer_divergence",
    "at_tokens",
    "best_at",
    "between_arm_variance",
    "blind_spots",
    "bound_growth",
    "certain_dispersion",
    "certified_reused",
    "chao2",
    "character_grams",
    "cosines",
    "count_transitions",
    "counts_by_arm",
    "detectable_gain",
    "distinct_answers",
    "distinct_k",
    "edit_similarity",
    "effective_draws",
    "effective_gain",
    "even_allocation",
    "failure_power",
    "fidelity",
    "frontier",
    "give_verdict",
    "independent_failure",
    "jaccard",
    "judge_shortlist",
    "log_dispersion",
    "majority_at",
    "margin_pieces",
    "mcnemar",
    "mean_deviation",
    "mean_interval",
    "mean_intervals",
    "paired_difference",
    "paired_p_value",
    "pass_at",
    "pass_curve",
    "relevance",
    "reused_failure",
    "semantic_entropy",
    "shortlist_at",
    "sign_test",
    "stratified_failure",
    "two_factor_gain",
    "utility",
    "vendi",
    "vote_margins",
]
