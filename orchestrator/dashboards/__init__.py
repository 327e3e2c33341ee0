"""Dashboards for Grafana, scraping and alerts for Prometheus: generated from the catalogue of metrics and the rules."""
