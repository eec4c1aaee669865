"""How good a predictor is.

`score` shows labelled frames to a detector and counts what it gets right, `metrics` turns counts into scores,
and `calibrate` fits threshold, gate and weights on held-out records. `analysis` finds out where a detector errs, and
`report` writes the scores and the analysis of a store as JSON and as a page. Scores come from integer counts that add
up over batches and processes; nothing is averaged before the end.
"""
