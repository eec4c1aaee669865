"""Trained networks as predictors.

`detector` combines networks into one `torch.nn.Module`. `load` loads a run directory, a pipeline directory or, with
`exported`, an exported file, which is checked before torch opens it, as a `predictor.Predictor`. `export` writes a
predictor to one file of the `names` that such files have, `model_folder` writes a run or pipeline in the form in which
it is shared. `tables` writes predictions of a store as CSV.

Data passes in one way: stored frames go in, probabilities on the grid of the labels come out.
"""
