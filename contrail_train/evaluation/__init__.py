"""How good a predictor is.

`score` shows labelled frames to a detector and counts what it gets right, in the threads of `counting`, `metrics` turns
counts into scores, and `calibrate` fits threshold, gate and weights on held-out records, which `held_out` opens.
`outcomes` keeps what became of each record, `nearness` finds the records near training records, `analysis` counts where
a detector errs, `orientation` compares images that are mirrored and turned, `analysis_text` puts the analysis into
words and tables, and `report` writes the scores and the analysis of a store as JSON and as a page. `card` sums them up
for those who take a shared model. Scores come from integer counts that add up over batches and processes; nothing is
averaged before the end.
"""
