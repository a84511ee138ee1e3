"""Monitoring of a service: alert rules with tests, a dashboard, and the state on one screen. Never imports torch."""
