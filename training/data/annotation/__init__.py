"""Human preferences from Label Studio: exports in, comparisons out, every annotation accounted."""
