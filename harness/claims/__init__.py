"""The claims of drivers on the cells of a study, so that each cell is trained once."""
