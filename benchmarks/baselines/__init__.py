"""The same work as a plain program of another library does it, for comparison side by side."""
