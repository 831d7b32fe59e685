"""QuPath's file formats: no stage logic, no torch."""
