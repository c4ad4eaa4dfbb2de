"""The cases, and the subjects and settings that they share."""
