"""Drills: service is lost in isolation, restored, and timed until the gateway answers."""
