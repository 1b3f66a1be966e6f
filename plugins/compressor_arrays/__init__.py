"""Data for any model: files of arrays, as `numpy.savez` writes them."""
