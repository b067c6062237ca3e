"""Drills: what fails, what comes up instead, and whether service was back in time. Pure."""
