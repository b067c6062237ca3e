"""The embedded platform: real control planes, object stores and operators, on simulated nodes."""
