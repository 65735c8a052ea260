"""Takes unhealthy replicas out of rotation and restarts them, within a budget.

poll.py asks the pods. views.py, values.py, policy.py, memory.py, state.py, decide.py, restarts.py,
ledger.py and steps.py are pure: they turn the answers into steps. act.py and writes.py perform the
steps. remediator.py runs this in a loop for each service, gates.py opens the gates of new pods.
"""
