"""Checks the grammars of requests before the engine gets them (docs/decisions/0012).

`fork_server.py` runs jobs in processes that can be killed, and `forking.py` is what runs there.
`compiler.py` is the job: it compiles a grammar as the engine core will. `checks.py` decides which
grammars to check, remembers the verdicts and bounds the queues. `params.py` replaces vLLM's
parameters by checked ones, and `trials.py` puts it all together.
"""
