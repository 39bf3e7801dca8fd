"""MMSA feature files: safe unpickling, validation, alignment and cleaning."""
