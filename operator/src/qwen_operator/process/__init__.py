"""The operator as a process: settings, logs, its own metrics, health."""
