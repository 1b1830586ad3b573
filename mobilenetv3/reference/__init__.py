"""The torch twin: only align.py, benchmark.py and the tests use this room."""
