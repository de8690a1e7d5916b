"""Slow, plain float64 twins of the package, written from the papers' formulas."""
