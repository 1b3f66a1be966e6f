"""The finished student in fewer bits."""
