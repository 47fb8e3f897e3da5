"""What a difference between two models is, and how sure one may be of it: numpy, scipy, no torch.

Reading order: ``words`` (phrases of all verdicts), ``definition`` (the difference at a position),
``totals`` (what each text adds to a mean), ``resampling`` and ``intervals`` (where the truth lies),
``positions`` (one view over many texts), ``spread`` and ``figures`` (what some positions come to),
``summary`` (views, buckets, groups), ``floor`` (is it more than rounding?), ``nulls`` (is it more
than a random change?), ``signed`` and ``values`` (differences with a sign, values of which a prompt
has one), ``bounds`` (a verdict for machines), ``as_json`` (the names of the command line),
``chain`` (stages of a model), ``result`` (all of it together), ``sentences`` (what a person reads
of it), ``sweep`` (of many views at once).

Figures are means over positions; what is drawn at random are texts, and equal texts count as one.
"""

from forwardcache.extras import extra_named, require

# Imported where a figure needs it, and missed here.
require("forwardcache.statistics", "numpy", "scipy")

with extra_named("forwardcache.statistics"):
    from forwardcache.statistics.as_json import view_as_json
    from forwardcache.statistics.bounds import Bounds, Outcome, judge, worst
    from forwardcache.statistics.chain import Stage, chained
    from forwardcache.statistics.definition import TOP_K, differences_by_definition
    from forwardcache.statistics.figures import DeltaP, Figures
    from forwardcache.statistics.floor import Floor, FloorVerdict, against_floor, larger
    from forwardcache.statistics.intervals import (
        FEWEST_TEXTS,
        ROUGH_TEXTS,
        Interval,
        interval_of_mean,
        intervals,
        share_intervals,
    )
    from forwardcache.statistics.nulls import (
        NullComparison,
        adjusted,
        against_nulls,
        among_nulls,
        holm,
    )
    from forwardcache.statistics.positions import Positions
    from forwardcache.statistics.result import (
        DiffResult,
        MovedPosition,
        TopToken,
        ViewDifference,
    )
    from forwardcache.statistics.sentences import Answer, answers, verdict_sentences
    from forwardcache.statistics.signed import SignedSummary, signed_summary
    from forwardcache.statistics.spread import Spread
    from forwardcache.statistics.summary import Bucket, Summary, summaries
    from forwardcache.statistics.totals import Totals
    from forwardcache.statistics.values import ValueFigures, Values, value_figures

__all__ = [
    "FEWEST_TEXTS",
    "ROUGH_TEXTS",
    "TOP_K",
    "Answer",
    "Bounds",
    "Bucket",
    "DeltaP",
    "DiffResult",
    "Figures",
    "Floor",
    "FloorVerdict",
    "Interval",
    "MovedPosition",
    "NullComparison",
    "Outcome",
    "Positions",
    "SignedSummary",
    "Spread",
    "Stage",
    "Summary",
    "TopToken",
    "Totals",
    "ValueFigures",
    "Values",
    "ViewDifference",
    "adjusted",
    "against_floor",
    "against_nulls",
    "among_nulls",
    "answers",
    "chained",
    "differences_by_definition",
    "holm",
    "interval_of_mean",
    "intervals",
    "judge",
    "larger",
    "share_intervals",
    "signed_summary",
    "summaries",
    "value_figures",
    "verdict_sentences",
    "view_as_json",
    "worst",
]
