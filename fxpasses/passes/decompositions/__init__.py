"""Our own decompositions, one file for each family of operators."""
