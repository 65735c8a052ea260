"""Control: whether a request is accepted, and what state the server is in.

A module belongs here if it decides: admission and its queue, the lifecycle of the process, the
alert catalogue and its evaluation, the reasons for refusals. `service.Service` holds them together
for one server. Clocks are passed in, so all of it can be tested without waiting.

It may import `observe`, `config` and the protocol in `engine.base`. It knows no HTTP: `http` and
`api` turn its decisions into responses.
"""
