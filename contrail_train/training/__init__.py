"""The training of one run.

`setup` opens the data and builds model, optimiser and weight average; `start` loads the weights of an earlier run;
`fit` is the loop, which takes one `step` after another, scores each epoch on the hold-out and calibrates at the end;
`losses` and `optim` are the parts of a step. `dry_run` takes three steps to estimate what a run would cost.

Batches come in from `data`, a model from `models`; a finished run directory (see `runs`) goes out.
"""
