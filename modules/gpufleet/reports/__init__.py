"""Documents made from models and data: reference pages, plots, exports."""
