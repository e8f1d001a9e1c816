"""The seam to the job engine: the only room that imports it."""
