"""The parts of an experiment, one file each; `main` runs them in order."""
