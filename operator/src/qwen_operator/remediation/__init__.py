"""Takes sick replicas out of rotation and restarts them, within a budget and without ever emptying the Service.

poll.py and act.py talk to pods and to Kubernetes; policy.py, observe.py, decide.py, restarts.py and ledger.py are pure.
"""
