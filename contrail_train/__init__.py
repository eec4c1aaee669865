"""Contrail detectors, trained straight from the stores of contrail_data.

From the bottom to the top: `config` says what a run is; `data` reads samples and augments them, `models` are the
networks, `runs` is what a run leaves on disk, and `contrails` turns masks into single contrails. `inference` loads a
run as a predictor, which `evaluation` scores and `scenes` applies to whole scans. `training` runs the loop, `workflows`
combine several runs, and `cli` is the command line. A room imports only rooms below it.
"""
