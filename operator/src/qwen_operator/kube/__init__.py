"""Access to the Kubernetes API: client, informers and their cache, Events, Lease, work queue."""
