"""Taking, restoring and verifying snapshots of model artifacts."""
