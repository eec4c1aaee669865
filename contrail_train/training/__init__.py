"""The training of one run.

`inputs` checks what the settings name. `setup` opens the data and builds the model, its `optimiser` and weight average;
`start` loads the weights of an earlier run, and `freezing` leaves parts as they are. `fit` is the loop, which takes one
`step` after another, scores each epoch on the hold-out and calibrates at the end; a `rehearsal` takes a few steps to
estimate what a run would cost. `losses` is the objective of a step, `precision` the arithmetic of the network.
`teacher` asks a detector from which a run learns. `stopping` lets a signal wait for the end of a step. `epoch` is what
an epoch shows on the terminal, `pictures` what the `loggers` show, each of which is a `logger` in a module of its own.

Batches come in from `data`, a model from `models`; a finished run directory (see `runs`) goes out.
"""
