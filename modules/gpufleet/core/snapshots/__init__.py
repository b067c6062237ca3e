"""What a snapshot store decides: cuts, frames, packs, manifests, retention, garbage."""
