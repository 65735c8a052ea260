"""The Kubernetes API: a client, the copies that watches keep, Events, the Lease and the work queue."""
