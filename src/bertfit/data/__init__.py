"""Reading, checking, splitting, encoding and batching of labelled text."""
