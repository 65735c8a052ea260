"""What any process has: settings, log lines, its own metrics, and whether it is alive."""
