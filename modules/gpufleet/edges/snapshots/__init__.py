"""Snapshots at the edge: objects in a bucket, files of a source, and a tree put in place."""
