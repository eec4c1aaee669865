"""Labels that are not drawn by hand: pseudo-labels, predictions, and human labels carried through time.

A labeller (`predictor`, the types that models and flow share) goes over the `frames` of a store of samples and gives a
store of labels (`write`) that names its parent. `flow` is the labeller that carries human labels by optical flow, and
`agreement` compares two stores of labels.
"""
