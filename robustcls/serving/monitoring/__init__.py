"""What watches a service: alert rules with their tests, a dashboard, and the state on one screen. Never imports torch."""
