"""Trained networks as predictors.

`detector` combines networks into one `torch.nn.Module`. `run`, `pipeline` and `exported` load a run directory, a
pipeline directory or an exported file as a `predictor.Predictor`; `load` picks the right one. `export` writes a
predictor to one file, and `untrusted_pt2` checks such a file before torch opens it. `records` and `submission` write
predictions of a store as CSV.

Data passes in one way: stored frames go in, probabilities on the grid of the labels come out.
"""
