"""The stages of an experiment, one module each; `main` runs them in order.

A stage has four functions. `check(run)` raises UserError if the stage cannot work; all stages are checked
before the first one runs. `locate(run)` returns its folder and the stamp of what its results depend on.
`complete(run, results)` says whether they exist, and `main(run, results)` computes them.
"""
