"""The control plane: scheduled training, the status of all workers, and how good the predictions turned out to be.

It reads what the data plane writes and stands on nobody's path: stopped, it is missed by no prediction. All it knows is
in memory or in the log, so nothing of it needs saving.
"""
