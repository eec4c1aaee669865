"""Work on several training runs or finished ones, and what Python code calls.

`pipeline` trains the stages of a detector and calibrates them together; `rounds` alternates between training and
pseudo-labelling; `soup` averages the weights of runs. `sweep` searches for settings, and each of its trials is a run.
What these are given is checked without torch by `stages`, `retraining` and `sweep_folder`. `train` and `predict` are
for notebooks and scripts; `symmetries` loads predictors with the thresholds that belong to their symmetries.

Each workflow that trains writes a directory that contains run directories, resumes if it is repeated, and calls
`training.fit`. `publish` puts a finished model where others find it.
"""
