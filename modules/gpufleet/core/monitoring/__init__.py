"""What is recorded, alerted and drawn of a fleet, as plain data for Prometheus and Grafana."""
