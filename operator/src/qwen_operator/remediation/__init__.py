"""Takes unhealthy replicas out of rotation and restarts them, within a budget.

poll.py asks the pods. The pure modules turn the answers into steps: decide.py shows the order of a
round, recovery.py, restarts.py, hardware.py, silence.py and dry_run.py decide its parts, views.py,
values.py, policy.py, memory.py, ledger.py, state.py and steps.py are what they work with. act.py
and writes.py perform the steps. remediator.py runs this in a loop for each service, gates.py opens
the gates of new pods. nodes.py knows which nodes are lost, shares.py keeps the namespaces apart,
failing.py counts rounds that raise, gate_tries.py spaces writes of gates that fail.
"""
