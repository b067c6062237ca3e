"""What the gateway decides: who may ask, where a request goes, and when it is refused. Pure."""
