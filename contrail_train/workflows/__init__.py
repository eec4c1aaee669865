"""Work that takes several training runs.

`pipeline` trains the stages of a detector and calibrates them together; `rounds` alternates between training and
pseudo-labelling; `soup` averages the weights of runs. `retraining` names the ways in which a round uses its
pseudo-labels. `sweep` searches for settings, and each of its trials is a run.

Each workflow writes a directory that contains run directories, resumes if it is repeated, and calls `training.fit`.
"""
